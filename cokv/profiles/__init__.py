"""Offline head profiles: profilers that measure them on a model, and readers of published files.

A profiler (razor_scores, headkv_scores, duo_gates, lukv_curves) runs a model on prompts and returns head scores or
curves with their settings. `load_profile` (load) reads either from a file, published or our own, with its provenance
(digest, source, sizes); what is wrong with a file is one line.
"""
