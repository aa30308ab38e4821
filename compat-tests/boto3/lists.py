# Listing: order, delimiter, prefix, pages, markers, encoding.
names = ["a", "a-b", "a/1", "a/2", "a/b/1", "b/1", "b/2", "c", "d/e/f", "z", "é/x"]
for name in names:
    s3.put_object(Bucket=bucket, Key=name, Body=name.encode())


def v2(**options):
    keys, prefixes, pages, token = [], [], 0, None
    while True:
        if token:
            options["ContinuationToken"] = token
        page = s3.list_objects_v2(Bucket=bucket, **options)
        pages += 1
        same(page["KeyCount"], len(page.get("Contents", [])) + len(page.get("CommonPrefixes", [])))
        assert page["KeyCount"] <= options.get("MaxKeys", 1000)
        keys += [o["Key"] for o in page.get("Contents", [])]
        prefixes += [p["Prefix"] for p in page.get("CommonPrefixes", [])]
        if not page["IsTruncated"]:
            return keys, prefixes, pages
        token = page["NextContinuationToken"]


same(v2()[0], names)
for size in (1, 2, 3, 5, len(names)):
    same(v2(MaxKeys=size)[:2], (names, []))
    same(v2(MaxKeys=size, Delimiter="/")[:2], (["a", "a-b", "c", "z"], ["a/", "b/", "d/", "é/"]))
same(v2(Prefix="a/")[:2], (["a/1", "a/2", "a/b/1"], []))
same(v2(Prefix="a/", Delimiter="/")[:2], (["a/1", "a/2"], ["a/b/"]))
same(v2(Prefix="a", Delimiter="b")[:2], (["a", "a/1", "a/2"], ["a-b", "a/b"]))
same(v2(StartAfter="b/1")[0], ["b/2", "c", "d/e/f", "z", "é/x"])
same(v2(Prefix="nothing")[:2], ([], []))
same(s3.list_objects_v2(Bucket=bucket, MaxKeys=0).get("Contents", []), [])
assert "Owner" not in s3.list_objects_v2(Bucket=bucket)["Contents"][0]
assert "Owner" in s3.list_objects_v2(Bucket=bucket, FetchOwner=True)["Contents"][0]
fails("InvalidArgument", s3.list_objects_v2, Bucket=bucket, ContinuationToken="no such token")

keys, marker = [], ""
while True:
    page = s3.list_objects(Bucket=bucket, Marker=marker, MaxKeys=2, Delimiter="/")
    keys += [o["Key"] for o in page.get("Contents", [])] + [p["Prefix"] for p in page.get("CommonPrefixes", [])]
    if not page["IsTruncated"]:
        break
    marker = page["NextMarker"]
same(sorted(keys), sorted(["a", "a-b", "c", "z", "a/", "b/", "d/", "é/"]))

entry = s3.list_objects_v2(Bucket=bucket, Prefix="a-b")["Contents"][0]
same((entry["Size"], entry["ETag"], entry["StorageClass"]), (3, '"' + hashlib.md5(b"a-b").hexdigest() + '"', "STANDARD"))

# A listing sees each acknowledged write at once.
for n in range(100):
    s3.put_object(Bucket=bucket, Key="now/x", Body=b"")
    same(v2(Prefix="now/")[0], ["now/x"])
    s3.delete_object(Bucket=bucket, Key="now/x")
    same(v2(Prefix="now/")[0], [])

# Buckets in pages.
if target != "minio":
    more = [f"{bucket}-{n}" for n in range(5)]
    for name in more:
        s3.create_bucket(Bucket=name)
    found, token = [], {}
    while True:
        page = s3.list_buckets(MaxBuckets=2, Prefix=bucket + "-", **token)
        assert len(page["Buckets"]) <= 2
        found += [b["Name"] for b in page["Buckets"]]
        if "ContinuationToken" not in page:
            break
        token = {"ContinuationToken": page["ContinuationToken"]}
    same(found, more)
