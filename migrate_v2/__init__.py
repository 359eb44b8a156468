"""The house, from the ground up. A module imports modules of earlier lines only; tests/test_house.py reads this page.

    ground  errors                              one exception an exit status
            answers                             whether an answer of S3 is about what was asked for
            model                               nouns and pure decisions
            events                              what happened
            flow                                bounded concurrency
            keys                                key <-> path, and what of it may be shown
            ownfiles                            where files of the program's own may be
            policy                              bucket policies, and what they let whom do
            checksums                           every witness of S3, recomputed
            tuning                              inventory + machine -> transfer settings
            shards                              work for other processes, as plain values
            conveyor                            inventory + link + disk -> restores, and for how many days
            settings                            the table of settings
            durability                          file system types: what outlasts a power cut there
            space costs obstacles timeline      whether it fits; what it costs, is in the way, takes
            prices                              the rates
            workload                            what is going to be asked for, and what was, with its price
    edges   edges.mounts                        which file system a folder is on
            edges.schema edges.ledger           the tables, change by change; the record of deletes
            edges.older                         the older toolkit's state files, read only
            edges.store edges.s3                the state file; AWS
            edges.s3control                     AWS: jobs of S3 Batch Operations
            edges.credentials                   credentials for the AWS CLI, over a socket
            edges.awscli edges.disk             the AWS CLI; files, locks, the machine
            edges.kms edges.cloudwatch edges.pricelist    KMS, metrics, prices: asked through edges.s3
            edges.child                         a process of ours
            edges.readers                       such that read small files back
            edges.wire                          plain HTTP, for what is small
            edges.crt                           the AWS Common Runtime, in processes of its own
            deletion                            what confirm-delete would do, and the token of exactly that
    steps   anchor                              whether destination and state file know of the same deletions
            layout                              where the local copy of a version goes
            steps.settle steps.scan steps.restore steps.batch steps.adopt steps.place steps.sync steps.pull steps.fetch
            steps.verify steps.describe steps.manifest steps.audit steps.hold steps.delete steps.status
            steps.policy steps.errors steps.upgrade steps.diagnose steps.preflight steps.plan
    roof    pipeline                            the order of the steps; the only place that moves a phase
            outlook                             what is to come, measured and counted: diagnose, plan
            report                              events -> text, JSON lines, log, bars
            notify                              events -> the operator's own command
            board                               where buckets stand, drawn
            sheet                               a plan as JSON and as tables
            page                                a plan as one page with charts
            cli                                 the docstring that is the interface
            __main__                            python -m migrate_v2

What is outside belongs to one room:

    sqlite_utils sqlite3            edges.schema edges.older edges.ledger edges.store
    boto3 botocore mypy_boto3_s3    edges.s3
    sh                              edges.awscli
    psutil fcntl                    edges.disk
    awscrt                          checksums edges.crt
    pydantic pydantic_settings      settings
    tomllib                         settings prices
    pygal                           page
    loguru rich                     report
    docopt                          cli
"""

__version__ = "2.0.0"
