# Conditions on every way to write.
put = s3.put_object(Bucket=bucket, Key="k", Body=b"one", IfNoneMatch="*")
fails("PreconditionFailed", s3.put_object, Bucket=bucket, Key="k", Body=b"two", IfNoneMatch="*")
same(body("k"), b"one")
fails("PreconditionFailed", s3.put_object, Bucket=bucket, Key="k", Body=b"two", IfMatch='"wrong"')
two = s3.put_object(Bucket=bucket, Key="k", Body=b"two", IfMatch=put["ETag"])
fails("PreconditionFailed", s3.put_object, Bucket=bucket, Key="k", Body=b"three", IfMatch=put["ETag"])
same(body("k"), b"two")
fails("NoSuchKey", s3.put_object, Bucket=bucket, Key="absent", Body=b"x", IfMatch='"any"')

# Completion of an upload.
def upload(key):
    made = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key=key, UploadId=made, PartNumber=1, Body=b"part")
    return dict(Bucket=bucket, Key=key, UploadId=made, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})


fails("PreconditionFailed", s3.complete_multipart_upload, IfNoneMatch="*", **upload("k"))
fails("PreconditionFailed", s3.complete_multipart_upload, IfMatch='"wrong"', **upload("k"))
same(body("k"), b"two")
s3.complete_multipart_upload(IfMatch=two["ETag"], **upload("k"))
same(body("k"), b"part")
s3.complete_multipart_upload(IfNoneMatch="*", **upload("fresh"))

# Source conditions of a copy.
etag = s3.head_object(Bucket=bucket, Key="k")["ETag"]
source = {"Bucket": bucket, "Key": "k"}
fails("PreconditionFailed", s3.copy_object, Bucket=bucket, Key="c", CopySource=source, CopySourceIfMatch='"wrong"')
fails("PreconditionFailed", s3.copy_object, Bucket=bucket, Key="c", CopySource=source, CopySourceIfNoneMatch=etag)
s3.copy_object(Bucket=bucket, Key="c", CopySource=source, CopySourceIfMatch=etag)

if target != "minio":
    # Destination conditions of a copy.
    fails("PreconditionFailed", s3.copy_object, Bucket=bucket, Key="c", CopySource=source, IfNoneMatch="*")
    fails("PreconditionFailed", s3.copy_object, Bucket=bucket, Key="c", CopySource=source, IfMatch='"wrong"')
    s3.copy_object(Bucket=bucket, Key="c", CopySource=source, IfMatch=etag)
    s3.copy_object(Bucket=bucket, Key="c2", CopySource=source, IfNoneMatch="*")
    # Deletion.
    fails("PreconditionFailed", s3.delete_object, Bucket=bucket, Key="c", IfMatch='"wrong"')
    same(body("c"), b"part")
    s3.delete_object(Bucket=bucket, Key="c", IfMatch=etag)
    fails("404", s3.head_object, Bucket=bucket, Key="c")
    s3.delete_object(Bucket=bucket, Key="c2", IfMatch="*")
    s3.put_object(Bucket=bucket, Key="d1", Body=b"x")
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "d1", "ETag": '"wrong"'}, {"Key": "k", "ETag": etag}]})
    same([d["Key"] for d in answer["Deleted"]], ["k"])
    same([(e["Key"], e["Code"]) for e in answer["Errors"]], [("d1", "PreconditionFailed")])

# A delete marker counts as absent.
s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
s3.put_object(Bucket=bucket, Key="v", Body=b"1")
s3.delete_object(Bucket=bucket, Key="v")
s3.put_object(Bucket=bucket, Key="v", Body=b"2", IfNoneMatch="*")
same(body("v"), b"2")
