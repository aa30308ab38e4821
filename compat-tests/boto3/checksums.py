# The five algorithms: stored, returned, verified, composed; a wrong one stores nothing.
import binascii, struct
from awscrt import checksums as crt

data = bytes(range(256)) * 5000


def digest(algorithm, value):
    return base64.b64encode({
        "CRC32": lambda: struct.pack(">I", binascii.crc32(value)),
        "CRC32C": lambda: struct.pack(">I", crt.crc32c(value)),
        "CRC64NVME": lambda: struct.pack(">Q", crt.crc64nvme(value)),
        "SHA1": lambda: hashlib.sha1(value).digest(),
        "SHA256": lambda: hashlib.sha256(value).digest(),
    }[algorithm]()).decode()


algorithms = ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]
for algorithm in algorithms:
    field, key = "Checksum" + algorithm, "one-" + algorithm
    want = digest(algorithm, data)
    # As a trailer, computed by the SDK.
    same(s3.put_object(Bucket=bucket, Key=key, Body=io.BytesIO(data), ChecksumAlgorithm=algorithm)[field], want)
    head = s3.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    same((head[field], head["ChecksumType"]), (want, "FULL_OBJECT"))
    got = s3.get_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    same((got["Body"].read(), got[field]), (data, want))
    attributes = s3.get_object_attributes(Bucket=bucket, Key=key, ObjectAttributes=["Checksum", "ObjectSize", "ETag"])
    same((attributes["Checksum"][field], attributes["ObjectSize"]), (want, len(data)))
    same(attributes["ETag"], hashlib.md5(data).hexdigest())
    # As a header, given by the caller.
    same(s3.put_object(Bucket=bucket, Key=key + "-header", Body=data, **{field: want})[field], want)
    # Wrong: refused, and nothing is there.
    fails("BadDigest", s3.put_object, Bucket=bucket, Key="bad", Body=data, **{field: digest(algorithm, b"other")})
    fails("404", s3.head_object, Bucket=bucket, Key="bad")
    # Not asked for: not told.
    assert field not in s3.head_object(Bucket=bucket, Key=key)
    # A copy keeps it; a copy may ask for another.
    same(s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/{key}")["CopyObjectResult"][field], want)
same(s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/one-SHA1", ChecksumAlgorithm="SHA256")
     ["CopyObjectResult"]["ChecksumSHA256"], digest("SHA256", data))
fails("BadDigest", s3.put_object, Bucket=bucket, Key="bad", Body=data, ContentMD5=base64.b64encode(hashlib.md5(b"x").digest()).decode())
fails("InvalidDigest", s3.put_object, Bucket=bucket, Key="bad", Body=data, ContentMD5="bm90IG1kNQ==")
s3.put_object(Bucket=bucket, Key="md5", Body=data, ContentMD5=base64.b64encode(hashlib.md5(data).digest()).decode())

# Nothing sent: CRC64NVME of the whole object is kept all the same.
if target != "minio":
    plain = client(config={"request_checksum_calculation": "when_required"})
    plain.put_object(Bucket=bucket, Key="plain", Body=data)
    same(s3.head_object(Bucket=bucket, Key="plain", ChecksumMode="ENABLED")["ChecksumCRC64NVME"], digest("CRC64NVME", data))

# Multipart: composite for all but CRC64NVME, full object for the CRCs.
parts = [b"a" * (5 << 20), b"b" * (5 << 20), b"tail"]
whole = b"".join(parts)
for algorithm, kind in [(a, "COMPOSITE") for a in algorithms if a != "CRC64NVME"] + [(a, "FULL_OBJECT") for a in algorithms[:3]]:
    field, key = "Checksum" + algorithm, f"many-{algorithm}-{kind}"
    upload = s3.create_multipart_upload(Bucket=bucket, Key=key, ChecksumAlgorithm=algorithm, ChecksumType=kind)["UploadId"]
    done = []
    for number, part in enumerate(parts, 1):
        answer = s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=part, ChecksumAlgorithm=algorithm)
        same(answer[field], digest(algorithm, part))
        done.append({"PartNumber": number, "ETag": answer["ETag"], field: answer[field]})
    if kind == "COMPOSITE":
        want = digest(algorithm, b"".join(base64.b64decode(d[field]) for d in done)) + f"-{len(parts)}"
    else:
        want = digest(algorithm, whole)
    if kind == "FULL_OBJECT":
        fails("BadDigest", s3.complete_multipart_upload, Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": done},
              ChecksumType=kind, **{field: digest(algorithm, b"other")})
    answer = s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": done}, ChecksumType=kind)
    same((answer[field], answer["ChecksumType"]), (want, kind))
    head = s3.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    same((head[field], head["ChecksumType"], head["ContentLength"]), (want, kind, len(whole)))
    attributes = s3.get_object_attributes(Bucket=bucket, Key=key, ObjectAttributes=["ObjectParts", "Checksum"])
    same(attributes["ObjectParts"]["TotalPartsCount"], len(parts))
    if kind == "COMPOSITE":
        same([p[field] for p in attributes["ObjectParts"]["Parts"]], [d[field] for d in done])
