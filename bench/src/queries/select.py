# Runs one S3 Select by boto3 and prints what came, as one JSON object. Arguments: bucket, key, format, expression.
import hashlib

# MinIO may send nothing for more than a minute while it reads a large object of Parquet.
s3 = client(config={"read_timeout": 600})

source, key, form, expression = sys.argv[1:]
read = {"CSV": {"FileHeaderInfo": "USE"}} if form == "csv" else {"Parquet": {}}
began = time.perf_counter()
try:
    answer = s3.select_object_content(
        Bucket=source,
        Key=key,
        ExpressionType="SQL",
        Expression=expression,
        InputSerialization=read,
        OutputSerialization={"CSV": {}},
    )
    digest, length, ended = hashlib.sha256(), 0, False
    for event in answer["Payload"]:
        if "Records" in event:
            digest.update(event["Records"]["Payload"])
            length += len(event["Records"]["Payload"])
        ended = ended or "End" in event
    assert ended, "the answer has no end"
    print(json.dumps({"seconds": time.perf_counter() - began, "bytes": length, "sha256": digest.hexdigest()}))
except ClientError as error:
    print(json.dumps({"code": error.response["Error"]["Code"]}))
