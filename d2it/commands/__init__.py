"""One verb, one file: `d2it train` is train.py. What several verbs take is in options.py."""
