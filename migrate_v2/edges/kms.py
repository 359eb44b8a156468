"""Whether a KMS key can still decrypt is asked of KMS itself."""

from __future__ import annotations

from migrate_v2.edges.s3 import S3, Denied, Gone, Refusal, Unreachable
from migrate_v2.obstacles import Key


def key(s3: S3, name: str, region: str) -> Key:
    """`name` is an id, ARN or alias as S3 tells it; what KMS does not tell is said in `why`, never taken for well."""
    # An ARN names the region that the key is in, which is asked there.
    parts = name.split(":")
    where = parts[3] if len(parts) > 3 and parts[3] else region
    try:
        answer = s3.ask("kms", "describe_key", where, KeyId=name)["KeyMetadata"]
        return Key(name, str(answer["KeyState"]), answer.get("DeletionDate"))
    except (Denied, Gone, Refusal, Unreachable) as failure:
        return Key(name, "", why=str(failure))
    except KeyError:
        return Key(name, "", why="the endpoint answers another question")
