"""The top floor: plans an experiment, runs it, resumes it, and is the command line. The only room that imports all others."""
