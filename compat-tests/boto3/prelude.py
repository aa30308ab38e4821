# Stands before every script of this directory: `s3` is the client, `bucket` a fresh bucket that exists.
import base64, hashlib, io, json, os, sys, threading, time, urllib.parse, urllib.request
import boto3, botocore
from boto3.s3.transfer import TransferConfig
from botocore.client import Config
from botocore.exceptions import ClientError

endpoint = os.environ["ENDPOINT"]
bucket = os.environ["BUCKET"]
target = os.environ["TARGET"]


def client(**options):
    config = Config(
        signature_version="s3v4",
        retries={"total_max_attempts": 1},
        s3={"addressing_style": options.pop("addressing", "path")},
        max_pool_connections=32,
        **options.pop("config", {}),
    )
    return boto3.client("s3", endpoint_url=options.pop("endpoint", endpoint), config=config, **options)


def fails(code, call, *arguments, **options):
    """`call` must fail with this S3 error code (or HTTP status, for replies without a body)."""
    try:
        answer = call(*arguments, **options)
    except ClientError as error:
        found = error.response["Error"]["Code"]
        status = str(error.response["ResponseMetadata"]["HTTPStatusCode"])
        assert code in (found, status), f"failed with {found} ({status}) instead of {code}"
        return error
    raise AssertionError(f"succeeded instead of failing with {code}: {answer}")


def body(key, **options):
    return s3.get_object(Bucket=bucket, Key=key, **options)["Body"].read()


def same(have, want):
    assert have == want, f"\nhave {have!r}\nwant {want!r}"


s3 = client()
s3.create_bucket(Bucket=bucket)
