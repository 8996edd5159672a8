"""What this machine can run: `cokv doctor`, or `python -m suite.doctor` where the installation itself is broken.

Every module here imports only the standard library at its top: a package that is missing, or that cannot be imported,
is something to report.
"""
