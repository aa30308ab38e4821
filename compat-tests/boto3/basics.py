# Buckets and single objects, with what a client stores beside the bytes.
assert bucket in [b["Name"] for b in s3.list_buckets()["Buckets"]]
s3.head_bucket(Bucket=bucket)
assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] in (None, "us-east-1")
fails("404", s3.head_bucket, Bucket=bucket + "-not-there")
fails("NoSuchBucket", s3.put_object, Bucket=bucket + "-not-there", Key="a", Body=b"x")
fails("NoSuchKey", s3.get_object, Bucket=bucket, Key="nothing")
fails("404", s3.head_object, Bucket=bucket, Key="nothing")

data = b"hello\x00world" * 1000
put = s3.put_object(
    Bucket=bucket, Key="dir/a.txt", Body=data, ContentType="text/x-test", CacheControl="max-age=9",
    ContentDisposition="attachment", ContentEncoding="identity", ContentLanguage="de",
    Metadata={"one": "1", "two-words": "a b  c"},
)
etag = '"' + hashlib.md5(data).hexdigest() + '"'
same(put["ETag"], etag)
got = s3.get_object(Bucket=bucket, Key="dir/a.txt")
same(got["Body"].read(), data)
for answer in (got, s3.head_object(Bucket=bucket, Key="dir/a.txt")):
    same(answer["ETag"], etag)
    same(answer["ContentLength"], len(data))
    same(answer["ContentType"], "text/x-test")
    same(answer["CacheControl"], "max-age=9")
    same(answer["ContentDisposition"], "attachment")
    same(answer["ContentLanguage"], "de")
    same(answer["Metadata"], {"one": "1", "two-words": "a b  c"})
    assert answer["ResponseMetadata"]["RequestId"] or target == "minio"

# Overrides of the reply.
got = s3.get_object(Bucket=bucket, Key="dir/a.txt", ResponseContentType="text/other", ResponseCacheControl="no-cache",
                    ResponseContentDisposition="inline", ResponseContentLanguage="fr", ResponseContentEncoding="gzip")
same([got[k] for k in ("ContentType", "CacheControl", "ContentDisposition", "ContentLanguage", "ContentEncoding")],
     ["text/other", "no-cache", "inline", "fr", "gzip"])

# Ranges.
for asked, want in [("bytes=0-0", data[:1]), ("bytes=5-9", data[5:10]), ("bytes=10990-", data[10990:]),
                    ("bytes=-7", data[-7:]), ("bytes=0-999999999", data), ("bytes=-999999999", data)]:
    got = s3.get_object(Bucket=bucket, Key="dir/a.txt", Range=asked)
    same(got["Body"].read(), want)
    same(got["ResponseMetadata"]["HTTPStatusCode"], 206)
    first = len(data) - len(want) if asked.startswith("bytes=-") else int(asked[6:].split("-")[0])
    same(got["ContentRange"], f"bytes {first}-{first + len(want) - 1}/{len(data)}")
fails("InvalidRange", s3.get_object, Bucket=bucket, Key="dir/a.txt", Range=f"bytes={len(data)}-")

# Conditions of reads.
fails("PreconditionFailed", s3.get_object, Bucket=bucket, Key="dir/a.txt", IfMatch='"nothing"')
fails("304", s3.get_object, Bucket=bucket, Key="dir/a.txt", IfNoneMatch=etag)
s3.get_object(Bucket=bucket, Key="dir/a.txt", IfMatch=etag, IfNoneMatch='"nothing"')
fails("304", s3.head_object, Bucket=bucket, Key="dir/a.txt", IfModifiedSince=time.time() + 100)
fails("412", s3.head_object, Bucket=bucket, Key="dir/a.txt", IfUnmodifiedSince=time.time() - 10000)

# Empty, overwritten, deleted, deleted again.
s3.put_object(Bucket=bucket, Key="empty", Body=b"")
same(body("empty"), b"")
fails("InvalidRange", s3.get_object, Bucket=bucket, Key="empty", Range="bytes=0-0")
s3.put_object(Bucket=bucket, Key="dir/a.txt", Body=b"second")
same(body("dir/a.txt"), b"second")
same(s3.head_object(Bucket=bucket, Key="dir/a.txt")["Metadata"], {})
fails("BucketNotEmpty", s3.delete_bucket, Bucket=bucket)
for _ in range(2):
    s3.delete_object(Bucket=bucket, Key="dir/a.txt")
fails("NoSuchKey", s3.get_object, Bucket=bucket, Key="dir/a.txt")

# Many at once.
for n in range(30):
    s3.put_object(Bucket=bucket, Key=f"many/{n}", Body=b"x")
names = [{"Key": f"many/{n}"} for n in range(30)] + [{"Key": "many/never"}]
answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": names})
same(sorted(d["Key"] for d in answer["Deleted"]), sorted(n["Key"] for n in names))
assert "Errors" not in answer
answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "empty"}], "Quiet": True})
assert "Deleted" not in answer
s3.delete_bucket(Bucket=bucket)
fails("NoSuchBucket", s3.list_objects_v2, Bucket=bucket)
