# The multipart family, and 200 MiB through the transfer manager.
import tempfile

# By hand: overwritten part, listing of parts and uploads, wrong completions, abort, completion twice.
key = "by-hand"
made = s3.create_multipart_upload(Bucket=bucket, Key=key, ContentType="text/x-m", Metadata={"m": "1"})["UploadId"]
first = b"1" * (5 << 20)
s3.upload_part(Bucket=bucket, Key=key, UploadId=made, PartNumber=1, Body=b"overwritten")
one = s3.upload_part(Bucket=bucket, Key=key, UploadId=made, PartNumber=1, Body=first)["ETag"]
two = s3.upload_part(Bucket=bucket, Key=key, UploadId=made, PartNumber=2, Body=b"end")["ETag"]
fails("404", s3.head_object, Bucket=bucket, Key=key)
listed = s3.list_parts(Bucket=bucket, Key=key, UploadId=made)
same([(p["PartNumber"], p["ETag"], p["Size"]) for p in listed["Parts"]], [(1, one, len(first)), (2, two, 3)])
page = s3.list_parts(Bucket=bucket, Key=key, UploadId=made, MaxParts=1)
assert page["IsTruncated"]
same(s3.list_parts(Bucket=bucket, Key=key, UploadId=made, PartNumberMarker=page["NextPartNumberMarker"])["Parts"][0]["PartNumber"], 2)
assert made in [u["UploadId"] for u in s3.list_multipart_uploads(Bucket=bucket, Prefix=key).get("Uploads", [])]


def complete(parts, **options):
    return s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=options.pop("upload", made),
                                        MultipartUpload={"Parts": [{"PartNumber": n, "ETag": e} for n, e in parts]}, **options)


fails("InvalidPart", complete, [(1, one), (3, two)])
fails("InvalidPart", complete, [(1, two), (2, two)])
fails("InvalidPartOrder", complete, [(2, two), (1, one)])
fails("EntityTooSmall", complete, [(1, s3.upload_part(Bucket=bucket, Key=key, UploadId=made, PartNumber=1, Body=b"small")["ETag"]), (2, two)])
one = s3.upload_part(Bucket=bucket, Key=key, UploadId=made, PartNumber=1, Body=first)["ETag"]
answer = complete([(1, one), (2, two)])
etag = '"' + hashlib.md5(hashlib.md5(first).digest() + hashlib.md5(b"end").digest()).hexdigest() + '-2"'
same(answer["ETag"], etag)
if target != "minio":
    same(complete([(1, one), (2, two)])["ETag"], etag)
head = s3.head_object(Bucket=bucket, Key=key)
same((head["ContentLength"], head["ContentType"], head["Metadata"], head["ETag"]), (len(first) + 3, "text/x-m", {"m": "1"}, etag))
same(body(key), first + b"end")
same(body(key, Range=f"bytes={len(first) - 2}-"), b"11end")
got = s3.get_object(Bucket=bucket, Key=key, PartNumber=2)
same((got["Body"].read(), got["PartsCount"], got["ResponseMetadata"]["HTTPStatusCode"]), (b"end", 2, 206))
same(s3.list_multipart_uploads(Bucket=bucket, Prefix=key).get("Uploads", []), [])
# Part numbers may have gaps.
gaps = s3.create_multipart_upload(Bucket=bucket, Key="gaps")["UploadId"]
parts = [(n, s3.upload_part(Bucket=bucket, Key="gaps", UploadId=gaps, PartNumber=n, Body=b)["ETag"]) for n, b in [(3, first), (9000, b"z")]]
s3.complete_multipart_upload(Bucket=bucket, Key="gaps", UploadId=gaps, MultipartUpload={"Parts": [{"PartNumber": n, "ETag": e} for n, e in parts]})
same(body("gaps"), first + b"z")
gone = s3.create_multipart_upload(Bucket=bucket, Key="aborted")["UploadId"]
s3.upload_part(Bucket=bucket, Key="aborted", UploadId=gone, PartNumber=1, Body=b"x")
s3.abort_multipart_upload(Bucket=bucket, Key="aborted", UploadId=gone)
fails("NoSuchUpload", s3.list_parts, Bucket=bucket, Key="aborted", UploadId=gone)
fails("NoSuchUpload", s3.upload_part, Bucket=bucket, Key="aborted", UploadId=gone, PartNumber=1, Body=b"x")

# Parts copied from an object.
copied = s3.create_multipart_upload(Bucket=bucket, Key="copied")["UploadId"]
parts = []
for number, options in [(1, {"CopySourceRange": f"bytes=0-{(5 << 20) - 1}"}), (2, {})]:
    part = s3.upload_part_copy(Bucket=bucket, Key="copied", UploadId=copied, PartNumber=number, CopySource={"Bucket": bucket, "Key": key}, **options)
    parts.append({"PartNumber": number, "ETag": part["CopyPartResult"]["ETag"]})
s3.complete_multipart_upload(Bucket=bucket, Key="copied", UploadId=copied, MultipartUpload={"Parts": parts})
same(body("copied"), first + first + b"end")

# 200 MiB, four parts at a time.
with tempfile.NamedTemporaryFile() as source, tempfile.NamedTemporaryFile() as target_file:
    want = hashlib.sha256()
    for n in range(200):
        block = hashlib.sha256(str(n).encode()).digest() * 32768
        want.update(block)
        source.write(block)
    source.flush()
    config = TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=16 << 20, max_concurrency=4)
    s3.upload_file(source.name, bucket, "large", Config=config)
    same(s3.head_object(Bucket=bucket, Key="large")["ContentLength"], 200 << 20)
    s3.download_file(bucket, "large", target_file.name, Config=config)
    have = hashlib.sha256()
    # The transfer manager replaces the file, so it is opened anew.
    with open(target_file.name, "rb") as back:
        for block in iter(lambda: back.read(1 << 20), b""):
            have.update(block)
    same(have.hexdigest(), want.hexdigest())
