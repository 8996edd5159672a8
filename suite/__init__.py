"""The top floor: plans an experiment, runs and resumes it, and is the command line. Alone imports all other rooms."""
