use super::*;
use http::Request;

fn parts(request: &str) -> Parts {
    let mut lines = request.split('|').map(str::trim);
    let (method, uri) = lines.next().unwrap().split_once(' ').unwrap();
    let mut builder = Request::builder().method(method).uri(uri);
    let mut host = Some("localhost:9900");
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        host = host.filter(|_| !name.eq_ignore_ascii_case("host"));
        builder = builder.header(name, value.trim());
    }
    if let Some(host) = host {
        builder = builder.header("host", host);
    }
    builder.body(()).unwrap().into_parts().0
}

fn run(request: &str, length_known: bool) -> String {
    let hosts = Hosts::new(["s3.example.com"]);
    match route(&parts(request), &Rules { hosts: &hosts, owner_id: "owner", length_known, two_lengths: false }) {
        Ok(Route::S3(operation, bucket)) => {
            format!("{} {}", operation.name, bucket.unwrap_or_default()).trim().to_owned()
        }
        Ok(Route::Internal) => "internal".into(),
        Ok(Route::Listen(bucket)) => format!("listen {}", bucket.unwrap_or_default()).trim().to_owned(),
        Ok(Route::Preflight(bucket)) => format!("preflight {}", bucket.unwrap_or_default()),
        Err(refusal) => format!("{} {}", refusal.status.as_u16(), refusal.code),
    }
}

fn check(request: &str, expected: &str) {
    assert_eq!(run(request, true), expected, "{request}");
}

#[test]
fn built_operations_are_recognised() {
    for (request, expected) in [
        ("PUT /b/k | x-holdfast-fence: a=1", "PutObject b"),
        ("POST /b/k?select&select-type=2", "SelectObjectContent b"),
        ("GET /?events=s3:ObjectCreated:*", "listen"),
        ("GET /b?events=s3:ObjectCreated:*&events=s3:ObjectRemoved:*&prefix=a&suffix=b&ping=10", "listen b"),
        ("GET /", "ListBuckets"),
        ("GET /?x-id=ListBuckets&max-buckets=2", "ListBuckets"),
        ("PUT /b", "CreateBucket b"),
        ("PUT /b/", "CreateBucket b"),
        ("HEAD /b", "HeadBucket b"),
        ("GET /b?location", "GetBucketLocation b"),
        ("GET /b?prefix=a&delimiter=/", "ListObjects b"),
        ("GET /b/?list-type=2&prefix=", "ListObjectsV2 b"),
        ("GET /b?versions", "ListObjectVersions b"),
        ("GET /b?uploads&prefix=x", "ListMultipartUploads b"),
        ("GET /b/k", "GetObject b"),
        ("GET /b/k?partNumber=1&versionId=null&response-expires=x", "GetObject b"),
        ("GET /b/k?x-id=GetObject&x-amz-checksum-mode=ENABLED&X-Amz-Signature=0", "GetObject b"),
        ("GET /b/k?unknown-to-aws=1", "GetObject b"),
        ("GET /b/k?attributes", "GetObjectAttributes b"),
        ("GET /b/k?uploadId=1&max-parts=2", "ListParts b"),
        ("PUT /b/k", "PutObject b"),
        (
            "PUT /b/k | x-amz-meta-a: 1 | x-amz-acl: private | x-amz-storage-class: STANDARD | if-none-match: *",
            "PutObject b",
        ),
        ("PUT /b/k | x-amz-write-offset-bytes: 5", "PutObject b"),
        ("PUT /b/k | x-amz-metadata-directive: REPLACE", "PutObject b"),
        ("PUT /b/k?x-id=PutObject&x-amz-checksum-crc32=AAAAAA%3D%3D&x-amz-sdk-checksum-algorithm=CRC32", "PutObject b"),
        ("PUT /b/k | x-amz-copy-source: /b/o | if-none-match: *", "CopyObject b"),
        ("PUT /b/k?partNumber=1&uploadId=u", "UploadPart b"),
        ("PUT /b/k?partNumber=1&uploadId=u | x-amz-copy-source: /b/o", "UploadPartCopy b"),
        ("PUT /b/k?renameObject | x-amz-rename-source: o | if-none-match: \"x\"", "RenameObject b"),
        ("PUT /b/k?tagging&versionId=1", "PutObjectTagging b"),
        ("POST /b/k?uploads", "CreateMultipartUpload b"),
        ("POST /b/k?uploadId=u | if-match: \"x\"", "CompleteMultipartUpload b"),
        ("DELETE /b/k?uploadId=u", "AbortMultipartUpload b"),
        ("DELETE /b/k?versionId=1 | if-match: *", "DeleteObject b"),
        ("DELETE /b/k | x-amz-bypass-governance-retention: false", "DeleteObject b"),
        ("POST /b?delete", "DeleteObjects b"),
        ("POST /b | content-type: multipart/form-data; boundary=x", "PostObject b"),
        ("PUT /k | host: b.s3.example.com", "PutObject b"),
        ("GET / | host: b.s3.example.com:80", "ListObjects b"),
        ("GET /%62/k", "GetObject b"),
        ("GET /b%2Fk", "GetObject b"),
        ("PUT /b | x-amz-expected-bucket-owner: owner | x-amz-bucket-object-lock-enabled: false", "CreateBucket b"),
        ("GET /_holdfast/health/live", "internal"),
        ("GET /minio/health/live", "internal"),
        ("GET /_holdfast/x | host: b.s3.example.com", "GetObject b"),
        ("OPTIONS /b/k", "preflight b"),
        ("OPTIONS /k | host: b.s3.example.com", "preflight b"),
    ] {
        check(request, expected);
    }
}

#[test]
fn what_is_not_built_answers_501() {
    for request in [
        "PUT /b/k?acl",
        "GET /b?acl",
        "GET /b?policy",
        "PUT /b?encryption",
        "PUT /b/k?encryption",
        "PUT /b/k?annotation&annotationName=x",
        "GET /b/k?torrent",
        "HEAD /b/k?acl",
        "HEAD /b?versioning",
        "GET /?x-id=ListDirectoryBuckets",
        "POST /b?metadataTable",
        "POST /b | x-amz-request-route: r",
        "DELETE /b?website",
        "PUT /b?events=a",
        "GET /b/k?events=a",
        "PUT /b/k?frobnicate",
        "PUT /b/k?partNumber=1",
        "PUT /b/k?versionId=1",
        "DELETE /b/k?foo",
        "POST /b?delete&foo",
        "POST /b?delete | content-type: multipart/form-data; boundary=x",
        "POST /b/k?append&position=0",
        "PUT /b/k?x-amz-meta-a=1",
        "PUT /b/k | x-amz-server-side-encryption: AES256",
        "GET /b/k | x-amz-server-side-encryption-customer-algorithm: AES256",
        "PUT /b/k | x-amz-object-lock-mode: GOVERNANCE",
        "PUT /b | x-amz-bucket-object-lock-enabled: true",
        "PUT /b/k | x-amz-grant-read: id=1",
        "PUT /b/k | x-amz-acl: public-read",
        "PUT /b/k | x-amz-metadata-directive: COPY",
        "PUT /b/k | x-amz-storage-class: GLACIER",
        "PUT /b/k | x-amz-website-redirect-location: /x",
        "PUT /b/k | x-amz-rename-source: o",
        "PUT /b/k?tagging | x-amz-copy-source: /b/o",
        "PUT /b/k?renameObject | x-amz-copy-source: /b/o",
        "DELETE /b/k | x-amz-mfa: 1",
        "DELETE /b/k | x-amz-if-match-size: 1",
        "DELETE /b/k | if-none-match: *",
        "PUT /b/k | if-none-match: \"etag\"",
        "PUT /b/k | if-modified-since: x",
        "PUT /b/k | content-range: bytes 0-1/2",
        "PUT /b/k | x-amz-future: 1",
        "GET /b/k | x-holdfast-fence: a=1",
        "POST /b?delete | x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    ] {
        check(request, "501 NotImplemented");
    }
}

#[test]
fn contradictions_are_refused() {
    for (request, expected) in [
        ("GET /b/k?X-Amz-Signature=0 | authorization: AWS4-HMAC-SHA256 x", "400 InvalidArgument"),
        ("GET /b/k?X-Amz-Credential=0 | authorization: AWS4-HMAC-SHA256 x", "400 InvalidArgument"),
        ("GET /b/k?AWSAccessKeyId=a&Signature=b&Expires=1", "400 InvalidRequest"),
        ("GET /b/k | authorization: AWS key:sig", "400 InvalidRequest"),
        ("GET /b/k | x-amz-security-token: t", "400 InvalidToken"),
        ("GET /b/k?X-Amz-Security-Token=t", "400 InvalidToken"),
        ("GET /b?acl&tagging", "400 InvalidArgument"),
        ("PUT /b/k?acl&tagging", "400 InvalidArgument"),
        ("GET /b?prefix=a&prefix=b", "400 InvalidArgument"),
        ("PUT /b/k?tagging&tagging", "400 InvalidArgument"),
        ("GET /b?list-type=3", "400 InvalidArgument"),
        ("PUT /b/k?x-id=DeleteObject", "400 InvalidRequest"),
        ("PUT /b/k?x-id=PutObject | x-amz-copy-source: /b/o", "400 InvalidRequest"),
        ("PUT /b/k?x-id=PutObjectAcl", "501 NotImplemented"),
        ("PUT /b/k | if-match: a | if-match: b", "400 InvalidArgument"),
        ("PUT /b/k | x-amz-copy-source: /b/o | x-amz-copy-source: /b/p", "400 InvalidArgument"),
        ("PUT /b/k | x-amz-acl: nonsense", "400 InvalidArgument"),
        ("PUT /b/k | x-amz-storage-class: nonsense", "400 InvalidStorageClass"),
        ("GET /b/k | x-amz-expected-bucket-owner: 1234", "403 AccessDenied"),
        ("PUT /b/k | x-amz-copy-source: /b/o | x-amz-source-expected-bucket-owner: 1234", "403 AccessDenied"),
        ("GET /b/k | x-holdfast-nonsense: 1", "400 InvalidArgument"),
        ("PUT /minio", "400 InvalidBucketName"),
        ("GET /%ff", "400 InvalidURI"),
        ("PATCH /b/k", "405 MethodNotAllowed"),
        ("POST /b", "412 PreconditionFailed"),
        (
            "PUT /b/k | content-encoding: gzip, aws-chunked | x-amz-content-sha256: UNSIGNED-PAYLOAD",
            "400 InvalidArgument",
        ),
        (
            "PUT /b/k | content-encoding: aws-chunked | x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER",
            "PutObject b",
        ),
    ] {
        check(request, expected);
    }
}

#[test]
fn a_body_without_a_length_needs_chunked_framing() {
    for (request, expected) in [
        ("PUT /b/k | transfer-encoding: chunked", "411 MissingContentLength"),
        (
            "POST /b | transfer-encoding: chunked | content-type: multipart/form-data; boundary=x",
            "411 MissingContentLength",
        ),
        ("POST /_holdfast/v1/sql | transfer-encoding: chunked", "411 MissingContentLength"),
        (
            "PUT /b/k | transfer-encoding: chunked | x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER",
            "PutObject b",
        ),
    ] {
        assert_eq!(run(request, false), expected, "{request}");
    }
}
