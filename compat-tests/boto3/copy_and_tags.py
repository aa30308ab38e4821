# Copies with and without their attributes; tags of objects and buckets.
s3.put_object(Bucket=bucket, Key="from", Body=b"data", ContentType="text/a", Metadata={"a": "1"}, Tagging="t=1&u=two%20words")
source = {"Bucket": bucket, "Key": "from"}
s3.copy_object(Bucket=bucket, Key="same", CopySource=source)
head = s3.head_object(Bucket=bucket, Key="same")
same((head["ContentType"], head["Metadata"]), ("text/a", {"a": "1"}))
s3.copy_object(Bucket=bucket, Key="new", CopySource=source, MetadataDirective="REPLACE", ContentType="text/b", Metadata={"b": "2"})
head = s3.head_object(Bucket=bucket, Key="new")
same((head["ContentType"], head["Metadata"], body("new")), ("text/b", {"b": "2"}, b"data"))
fails("InvalidRequest", s3.copy_object, Bucket=bucket, Key="from", CopySource=source)
s3.copy_object(Bucket=bucket, Key="from", CopySource=source, MetadataDirective="REPLACE", Metadata={"c": "3"}, ContentType="text/a")
same((s3.head_object(Bucket=bucket, Key="from")["Metadata"], body("from")), ({"c": "3"}, b"data"))
fails("NoSuchKey", s3.copy_object, Bucket=bucket, Key="x", CopySource={"Bucket": bucket, "Key": "nothing"})
fails("NoSuchBucket", s3.copy_object, Bucket=bucket, Key="x", CopySource={"Bucket": bucket + "-not-there", "Key": "a"})
other = bucket + "-other"
s3.create_bucket(Bucket=other)
s3.copy_object(Bucket=other, Key="over", CopySource=source)
same(s3.get_object(Bucket=other, Key="over")["Body"].read(), b"data")


def tags(key, **options):
    return {t["Key"]: t["Value"] for t in s3.get_object_tagging(Bucket=bucket, Key=key, **options)["TagSet"]}


same(tags("same"), {"t": "1", "u": "two words"})
s3.copy_object(Bucket=bucket, Key="tagged", CopySource=source, TaggingDirective="REPLACE", Tagging="n=9")
same(tags("tagged"), {"n": "9"})
s3.put_object_tagging(Bucket=bucket, Key="same", Tagging={"TagSet": [{"Key": "k", "Value": "v"}, {"Key": "ü", "Value": ""}]})
same(tags("same"), {"k": "v", "ü": ""})
same(s3.get_object(Bucket=bucket, Key="same")["TagCount"], 2)
s3.delete_object_tagging(Bucket=bucket, Key="same")
same(tags("same"), {})
fails("InvalidTag", s3.put_object_tagging, Bucket=bucket, Key="same",
      Tagging={"TagSet": [{"Key": "twice", "Value": "1"}, {"Key": "twice", "Value": "2"}]})
many = {"TagSet": [{"Key": f"k{n}", "Value": "v"} for n in range(11)]}
fails("400", s3.put_object_tagging, Bucket=bucket, Key="same", Tagging=many)
fails("NoSuchKey", s3.get_object_tagging, Bucket=bucket, Key="nothing")

fails("NoSuchTagSet", s3.get_bucket_tagging, Bucket=bucket)
s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": "team", "Value": "a"}]})
same(s3.get_bucket_tagging(Bucket=bucket)["TagSet"], [{"Key": "team", "Value": "a"}])
s3.delete_bucket_tagging(Bucket=bucket)
fails("NoSuchTagSet", s3.get_bucket_tagging, Bucket=bucket)

# Tags belong to a version.
s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
one = s3.put_object(Bucket=bucket, Key="v", Body=b"1", Tagging="n=1")["VersionId"]
two = s3.put_object(Bucket=bucket, Key="v", Body=b"2", Tagging="n=2")["VersionId"]
s3.put_object_tagging(Bucket=bucket, Key="v", VersionId=one, Tagging={"TagSet": [{"Key": "n", "Value": "old"}]})
same((tags("v"), tags("v", VersionId=one), tags("v", VersionId=two)), ({"n": "2"}, {"n": "old"}, {"n": "2"}))
