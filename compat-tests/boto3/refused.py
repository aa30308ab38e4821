# What is not built says so, and changes nothing.
s3.put_object(Bucket=bucket, Key="k", Body=b"kept")
etag = s3.head_object(Bucket=bucket, Key="k")["ETag"]
refused = [
    (s3.put_object, dict(Key="k", Body=b"x", ServerSideEncryption="AES256")),
    (s3.put_object, dict(Key="k", Body=b"x", ServerSideEncryption="aws:kms")),
    (s3.put_object, dict(Key="k", Body=b"x", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=time.time() + 9999)),
    (s3.put_object, dict(Key="k", Body=b"x", ObjectLockLegalHoldStatus="ON")),
    (s3.put_object, dict(Key="k", Body=b"x", ACL="public-read")),
    (s3.put_object, dict(Key="k", Body=b"x", GrantRead="id=1")),
    (s3.put_object, dict(Key="k", Body=b"x", WebsiteRedirectLocation="/x")),
    (s3.put_object_acl, dict(Key="k", ACL="public-read")),
    (s3.put_bucket_encryption, dict(ServerSideEncryptionConfiguration={"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]})),
    (s3.put_bucket_lifecycle_configuration, dict(LifecycleConfiguration={"Rules": [{"Status": "Enabled", "Filter": {}, "Expiration": {"Days": 1}}]})),
    (s3.put_bucket_policy, dict(Policy="{}")),
    (s3.put_bucket_website, dict(WebsiteConfiguration={"IndexDocument": {"Suffix": "i"}})),
    (s3.put_bucket_logging, dict(BucketLoggingStatus={})),
    (s3.get_object_torrent, dict(Key="k")),
    (s3.restore_object, dict(Key="k", RestoreRequest={"Days": 1})),
    (s3.put_object_retention, dict(Key="k", Retention={"Mode": "GOVERNANCE"})),
    (s3.put_object_legal_hold, dict(Key="k", LegalHold={"Status": "ON"})),
]
for call, options in refused:
    try:
        fails("NotImplemented", call, Bucket=bucket, **options)
    except AssertionError as error:
        raise AssertionError(f"{call.__name__} {options}: {error}") from None
# What promises no more than is kept is accepted.
s3.put_object(Bucket=bucket, Key="ok", Body=b"x", ACL="private")
s3.put_object(Bucket=bucket, Key="ok", Body=b"x", ACL="bucket-owner-full-control")
same((body("k"), s3.head_object(Bucket=bucket, Key="k")["ETag"]), (b"kept", etag))
