# Never versioned, enabled, suspended; markers; restore; the null version.
def versions(key):
    page = s3.list_object_versions(Bucket=bucket, Prefix=key)
    every = [(v["LastModified"], v["VersionId"], v["IsLatest"], "version") for v in page.get("Versions", []) if v["Key"] == key]
    every += [(v["LastModified"], v["VersionId"], v["IsLatest"], "marker") for v in page.get("DeleteMarkers", []) if v["Key"] == key]
    return {v[1]: (v[2], v[3]) for v in every}


assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
assert "VersionId" not in s3.put_object(Bucket=bucket, Key="k", Body=b"before")
same(versions("k"), {"null": (True, "version")})

s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
same(s3.get_bucket_versioning(Bucket=bucket)["Status"], "Enabled")
one = s3.put_object(Bucket=bucket, Key="k", Body=b"one")["VersionId"]
two = s3.put_object(Bucket=bucket, Key="k", Body=b"two")["VersionId"]
assert len({one, two, "null"}) == 3
same(body("k"), b"two")
same([body("k", VersionId=v) for v in ("null", one, two)], [b"before", b"one", b"two"])
same(versions("k"), {"null": (False, "version"), one: (False, "version"), two: (True, "version")})

marker = s3.delete_object(Bucket=bucket, Key="k")
assert marker["DeleteMarker"] and marker["VersionId"]
error = fails("NoSuchKey", s3.get_object, Bucket=bucket, Key="k")
same(error.response["ResponseMetadata"]["HTTPHeaders"].get("x-amz-delete-marker"), "true")
fails("MethodNotAllowed", s3.get_object, Bucket=bucket, Key="k", VersionId=marker["VersionId"])
same(s3.list_objects_v2(Bucket=bucket, Prefix="k").get("Contents", []), [])
same(versions("k")[marker["VersionId"]], (True, "marker"))
# A second marker is one more.
again = s3.delete_object(Bucket=bucket, Key="k")
same(len(versions("k")), 5)

# Restore: remove the markers, one answer says that it was one.
for m in (again, marker):
    gone = s3.delete_object(Bucket=bucket, Key="k", VersionId=m["VersionId"])
    assert gone["DeleteMarker"]
    same(gone["VersionId"], m["VersionId"])
same(body("k"), b"two")
# Restore an old version by copying it over itself.
three = s3.copy_object(Bucket=bucket, Key="k", CopySource={"Bucket": bucket, "Key": "k", "VersionId": one})
same((body("k"), three["CopySourceVersionId"]), (b"one", one))
# Remove one version for good: the one before is the latest again.
s3.delete_object(Bucket=bucket, Key="k", VersionId=three["VersionId"])
same(body("k"), b"two")
fails("NoSuchVersion", s3.get_object, Bucket=bucket, Key="k", VersionId=three["VersionId"])
fails("404", s3.head_object, Bucket=bucket, Key="k", VersionId=three["VersionId"])

# Suspended: writes go to "null" and replace what was null; other versions stay.
s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
s3.put_object(Bucket=bucket, Key="k", Body=b"suspended")
same(versions("k"), {one: (False, "version"), two: (False, "version"), "null": (True, "version")})
same(body("k", VersionId="null"), b"suspended")
gone = s3.delete_object(Bucket=bucket, Key="k")
assert gone["DeleteMarker"]
same(gone["VersionId"], "null")
same(versions("k"), {one: (False, "version"), two: (False, "version"), "null": (True, "marker")})
s3.delete_object(Bucket=bucket, Key="k", VersionId="null")
same(body("k"), b"two")

# Listing of versions in pages: every version once, newest first within a key.
s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
want = []
for n in range(4):
    for key in ("p/1", "p/2", "p/3"):
        want.append((key, s3.put_object(Bucket=bucket, Key=key, Body=str(n).encode())["VersionId"]))
want = [(k, v) for key in ("p/1", "p/2", "p/3") for k, v in reversed(want) if k == key]
for size in (1, 2, 5, 100):
    have, more = [], {}
    while True:
        page = s3.list_object_versions(Bucket=bucket, Prefix="p/", MaxKeys=size, **more)
        have += [(v["Key"], v["VersionId"]) for v in page.get("Versions", [])]
        if not page["IsTruncated"]:
            break
        more = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}
    same(have, want)

# A bucket with versions left is not empty.
for key in ("p/1", "p/2", "p/3", "k"):
    s3.delete_object(Bucket=bucket, Key=key)
fails("BucketNotEmpty", s3.delete_bucket, Bucket=bucket)
answer = s3.list_object_versions(Bucket=bucket)
entries = [{"Key": v["Key"], "VersionId": v["VersionId"]} for v in answer.get("Versions", []) + answer.get("DeleteMarkers", [])]
assert "Errors" not in s3.delete_objects(Bucket=bucket, Delete={"Objects": entries})
s3.delete_bucket(Bucket=bucket)
