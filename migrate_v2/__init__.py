"""The house, from the ground up. A module imports modules of earlier lines only; tests/test_house.py reads this page.

    ground  errors                              one exception an exit status
            model                               nouns and pure decisions
            events                              what happened
            keys checksums policy tuning        pure: paths, witnesses, policies, transfer settings
            settings                            the table of settings
    edges   schema                              the tables, change by change
            store s3 awscli disk                one outside thing each
    steps   scan restore sync fetch verify delete   one verb each
    roof    pipeline                            the order of steps; the only place that moves a phase
            report                              events -> text, JSON lines, log, bars
            cli                                 the docstring that is the interface

What is outside belongs to one module:

    sqlite_utils sqlite3        schema store
    boto3 botocore              s3
    sh                          awscli
    psutil fcntl ctypes         disk
    awscrt                      checksums
    pydantic pydantic_settings tomllib  settings
    loguru rich                 report
    docopt                      cli
"""

__version__ = "2.0.0"
