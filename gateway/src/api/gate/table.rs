//! The operations of the S3 API, as data: what is built, with which query names and headers, and what is not.
//!
//! The gate lets nothing past that this table does not name, because s3s would run an unknown subresource as the plain verb:
//! `PUT ?encryption` would overwrite the object. `docs/s3-compatibility.md` is generated from here.

use std::fmt::Write as _;

/// What a request's path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// No bucket.
    Service,
    /// A bucket.
    Bucket,
    /// An object.
    Object,
}

/// What the request's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// Nothing, or ignored.
    None,
    /// A document that is read whole.
    Document,
    /// An object's bytes.
    Stream,
    /// A browser's form with a file.
    Form,
}

/// One operation of the S3 API.
#[derive(Debug)]
pub struct Operation {
    /// AWS's name.
    pub name: &'static str,
    /// HTTP method.
    pub method: &'static str,
    /// What the path names.
    pub target: Target,
    /// Query names that select it, all of them.
    pub selected_by: &'static [&'static str],
    /// Header that selects it besides, or empty.
    pub selected_by_header: &'static str,
    /// Further query names it takes.
    pub query: &'static [&'static str],
    /// `x-amz-*` headers and conditions it takes besides [`COMMON_HEADERS`]; one that ends in `-` is a prefix.
    pub headers: &'static [&'static [&'static str]],
    /// Its body.
    pub body: BodyKind,
    /// Whether it works here.
    pub built: bool,
}

/// Headers that every operation takes.
pub const COMMON_HEADERS: &[&str] =
    &["x-amz-content-sha256", "x-amz-date", "x-amz-expected-bucket-owner", "x-amz-request-payer", "x-amz-user-agent"];

/// Query names that a signature brings along.
pub const SIGNATURE_QUERY: &[&str] = &[
    "X-Amz-Algorithm",
    "X-Amz-Content-Sha256",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-Signature",
    "X-Amz-SignedHeaders",
];

/// Headers that a presigning SDK moves into the query and that are safe there: the checksum is verified, the others
/// promise nothing.
pub const HOISTED_QUERY: &[&str] = &[
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-sha1",
    "x-amz-checksum-sha256",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-user-agent",
];

/// Query names of other S3 servers whose promise a plain GET would break silently.
pub const FOREIGN_SUBRESOURCES: &[&str] =
    &["events", "lambdaArn", "append", "position", "x-oss-process", "metadata-search"];

const CHECKSUMS: &[&str] = &[
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-sha1",
    "x-amz-checksum-sha256",
    "x-amz-sdk-checksum-algorithm",
    // Which algorithm is meant; the checksum itself decides.
    "x-amz-checksum-algorithm",
    "x-amz-checksum-type",
];
const STREAMED: &[&str] = &["x-amz-decoded-content-length", "x-amz-trailer"];
const ATTRIBUTES: &[&str] = &["x-amz-acl", "x-amz-meta-", "x-amz-storage-class", "x-amz-tagging"];
const COPY_SOURCE: &[&str] = &[
    "x-amz-copy-source",
    "x-amz-copy-source-if-match",
    "x-amz-copy-source-if-modified-since",
    "x-amz-copy-source-if-none-match",
    "x-amz-copy-source-if-unmodified-since",
    "x-amz-source-expected-bucket-owner",
];
const RENAME: &[&str] = &[
    "if-modified-since",
    "if-unmodified-since",
    "x-amz-client-token",
    "x-amz-rename-source",
    "x-amz-rename-source-if-match",
    "x-amz-rename-source-if-modified-since",
    "x-amz-rename-source-if-none-match",
    "x-amz-rename-source-if-unmodified-since",
];
const CONDITIONS: &[&str] = &["if-match", "if-none-match"];
const LIST: &[&str] = &["delimiter", "encoding-type", "max-keys", "prefix"];
const READ: &[&str] = &[
    "partNumber",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "versionId",
    "x-amz-checksum-mode",
];

const fn built(
    name: &'static str,
    method: &'static str,
    target: Target,
    selected_by: &'static [&'static str],
) -> Operation {
    Operation {
        name,
        method,
        target,
        selected_by,
        selected_by_header: "",
        query: &[],
        headers: &[],
        body: BodyKind::None,
        built: true,
    }
}

const fn unbuilt(
    name: &'static str,
    method: &'static str,
    target: Target,
    selected_by: &'static [&'static str],
) -> Operation {
    Operation { built: false, ..built(name, method, target, selected_by) }
}

/// Every operation. Order is that of the compatibility page: what is built first.
pub static OPERATIONS: &[Operation] = &[
    Operation {
        query: &["bucket-region", "continuation-token", "max-buckets", "prefix"],
        ..built("ListBuckets", "GET", Target::Service, &[])
    },
    Operation {
        headers: &[CHECKSUMS, &["x-amz-acl", "x-amz-bucket-object-lock-enabled", "x-amz-object-ownership"]],
        body: BodyKind::Document,
        ..built("CreateBucket", "PUT", Target::Bucket, &[])
    },
    built("HeadBucket", "HEAD", Target::Bucket, &[]),
    built("DeleteBucket", "DELETE", Target::Bucket, &[]),
    built("GetBucketLocation", "GET", Target::Bucket, &["location"]),
    built("GetBucketVersioning", "GET", Target::Bucket, &["versioning"]),
    document("PutBucketVersioning", Target::Bucket, &["versioning"]),
    built("GetBucketTagging", "GET", Target::Bucket, &["tagging"]),
    document("PutBucketTagging", Target::Bucket, &["tagging"]),
    built("DeleteBucketTagging", "DELETE", Target::Bucket, &["tagging"]),
    built("GetBucketCors", "GET", Target::Bucket, &["cors"]),
    document("PutBucketCors", Target::Bucket, &["cors"]),
    built("DeleteBucketCors", "DELETE", Target::Bucket, &["cors"]),
    built("GetBucketNotificationConfiguration", "GET", Target::Bucket, &["notification"]),
    document("PutBucketNotificationConfiguration", Target::Bucket, &["notification"]),
    Operation {
        query: &["marker", LIST[0], LIST[1], LIST[2], LIST[3]],
        ..built("ListObjects", "GET", Target::Bucket, &[])
    },
    Operation {
        query: &["continuation-token", "fetch-owner", "start-after", LIST[0], LIST[1], LIST[2], LIST[3]],
        ..built("ListObjectsV2", "GET", Target::Bucket, &["list-type"])
    },
    Operation {
        query: &["key-marker", "version-id-marker", LIST[0], LIST[1], LIST[2], LIST[3]],
        ..built("ListObjectVersions", "GET", Target::Bucket, &["versions"])
    },
    Operation { body: BodyKind::Stream, ..PUT_OBJECT },
    Operation { query: READ, ..built("GetObject", "GET", Target::Object, &[]) },
    Operation { query: READ, ..built("HeadObject", "HEAD", Target::Object, &[]) },
    Operation {
        query: &["versionId"],
        headers: &[&["if-match"]],
        ..built("DeleteObject", "DELETE", Target::Object, &[])
    },
    Operation { method: "POST", ..document("DeleteObjects", Target::Bucket, &["delete"]) },
    Operation {
        selected_by_header: "x-amz-copy-source",
        headers: &[
            ATTRIBUTES,
            COPY_SOURCE,
            CONDITIONS,
            &["x-amz-checksum-algorithm", "x-amz-metadata-directive", "x-amz-tagging-directive"],
        ],
        ..built("CopyObject", "PUT", Target::Object, &[])
    },
    Operation { headers: &[RENAME, CONDITIONS], ..built("RenameObject", "PUT", Target::Object, &["renameObject"]) },
    Operation {
        headers: &[&["x-amz-max-parts", "x-amz-object-attributes", "x-amz-part-number-marker"]],
        query: &["versionId"],
        ..built("GetObjectAttributes", "GET", Target::Object, &["attributes"])
    },
    Operation { query: &["versionId"], ..built("GetObjectTagging", "GET", Target::Object, &["tagging"]) },
    Operation { query: &["versionId"], ..document("PutObjectTagging", Target::Object, &["tagging"]) },
    Operation { query: &["versionId"], ..built("DeleteObjectTagging", "DELETE", Target::Object, &["tagging"]) },
    Operation {
        headers: &[ATTRIBUTES, &["x-amz-checksum-algorithm", "x-amz-checksum-type"]],
        ..built("CreateMultipartUpload", "POST", Target::Object, &["uploads"])
    },
    Operation {
        query: HOISTED_QUERY,
        headers: &[CHECKSUMS, STREAMED],
        body: BodyKind::Stream,
        ..built("UploadPart", "PUT", Target::Object, &["partNumber", "uploadId"])
    },
    Operation {
        selected_by_header: "x-amz-copy-source",
        headers: &[COPY_SOURCE, &["x-amz-copy-source-range"]],
        ..built("UploadPartCopy", "PUT", Target::Object, &["partNumber", "uploadId"])
    },
    Operation {
        headers: &[CHECKSUMS, CONDITIONS, &["x-amz-mp-object-size"]],
        body: BodyKind::Document,
        ..built("CompleteMultipartUpload", "POST", Target::Object, &["uploadId"])
    },
    Operation {
        query: &["select-type"],
        headers: &[CHECKSUMS],
        body: BodyKind::Document,
        ..built("SelectObjectContent", "POST", Target::Object, &["select"])
    },
    built("AbortMultipartUpload", "DELETE", Target::Object, &["uploadId"]),
    Operation {
        query: &["max-parts", "part-number-marker"],
        ..built("ListParts", "GET", Target::Object, &["uploadId"])
    },
    Operation {
        query: &["delimiter", "encoding-type", "key-marker", "max-uploads", "prefix", "upload-id-marker"],
        ..built("ListMultipartUploads", "GET", Target::Bucket, &["uploads"])
    },
    Operation { body: BodyKind::Form, ..built("PostObject", "POST", Target::Bucket, &[]) },
    unbuilt("PutBucketAbac", "PUT", Target::Bucket, &["abac"]),
    unbuilt("GetBucketAbac", "GET", Target::Bucket, &["abac"]),
    unbuilt("PutBucketAccelerateConfiguration", "PUT", Target::Bucket, &["accelerate"]),
    unbuilt("GetBucketAccelerateConfiguration", "GET", Target::Bucket, &["accelerate"]),
    unbuilt("PutBucketAcl", "PUT", Target::Bucket, &["acl"]),
    unbuilt("GetBucketAcl", "GET", Target::Bucket, &["acl"]),
    unbuilt("PutBucketAnalyticsConfiguration", "PUT", Target::Bucket, &["analytics"]),
    unbuilt("GetBucketAnalyticsConfiguration", "GET", Target::Bucket, &["analytics", "id"]),
    unbuilt("ListBucketAnalyticsConfigurations", "GET", Target::Bucket, &["analytics"]),
    unbuilt("DeleteBucketAnalyticsConfiguration", "DELETE", Target::Bucket, &["analytics"]),
    unbuilt("PutBucketEncryption", "PUT", Target::Bucket, &["encryption"]),
    unbuilt("GetBucketEncryption", "GET", Target::Bucket, &["encryption"]),
    unbuilt("DeleteBucketEncryption", "DELETE", Target::Bucket, &["encryption"]),
    unbuilt("PutBucketIntelligentTieringConfiguration", "PUT", Target::Bucket, &["intelligent-tiering"]),
    unbuilt("GetBucketIntelligentTieringConfiguration", "GET", Target::Bucket, &["intelligent-tiering", "id"]),
    unbuilt("ListBucketIntelligentTieringConfigurations", "GET", Target::Bucket, &["intelligent-tiering"]),
    unbuilt("DeleteBucketIntelligentTieringConfiguration", "DELETE", Target::Bucket, &["intelligent-tiering"]),
    unbuilt("PutBucketInventoryConfiguration", "PUT", Target::Bucket, &["inventory"]),
    unbuilt("GetBucketInventoryConfiguration", "GET", Target::Bucket, &["inventory", "id"]),
    unbuilt("ListBucketInventoryConfigurations", "GET", Target::Bucket, &["inventory"]),
    unbuilt("DeleteBucketInventoryConfiguration", "DELETE", Target::Bucket, &["inventory"]),
    unbuilt("PutBucketLifecycleConfiguration", "PUT", Target::Bucket, &["lifecycle"]),
    unbuilt("GetBucketLifecycleConfiguration", "GET", Target::Bucket, &["lifecycle"]),
    unbuilt("DeleteBucketLifecycle", "DELETE", Target::Bucket, &["lifecycle"]),
    unbuilt("PutBucketLogging", "PUT", Target::Bucket, &["logging"]),
    unbuilt("GetBucketLogging", "GET", Target::Bucket, &["logging"]),
    unbuilt("CreateBucketMetadataConfiguration", "POST", Target::Bucket, &["metadataConfiguration"]),
    unbuilt("GetBucketMetadataConfiguration", "GET", Target::Bucket, &["metadataConfiguration"]),
    unbuilt("DeleteBucketMetadataConfiguration", "DELETE", Target::Bucket, &["metadataConfiguration"]),
    unbuilt("CreateBucketMetadataTableConfiguration", "POST", Target::Bucket, &["metadataTable"]),
    unbuilt("GetBucketMetadataTableConfiguration", "GET", Target::Bucket, &["metadataTable"]),
    unbuilt("DeleteBucketMetadataTableConfiguration", "DELETE", Target::Bucket, &["metadataTable"]),
    unbuilt("UpdateBucketMetadataAnnotationTableConfiguration", "PUT", Target::Bucket, &["metadataAnnotationTable"]),
    unbuilt("UpdateBucketMetadataInventoryTableConfiguration", "PUT", Target::Bucket, &["metadataInventoryTable"]),
    unbuilt("UpdateBucketMetadataJournalTableConfiguration", "PUT", Target::Bucket, &["metadataJournalTable"]),
    unbuilt("PutBucketMetricsConfiguration", "PUT", Target::Bucket, &["metrics"]),
    unbuilt("GetBucketMetricsConfiguration", "GET", Target::Bucket, &["metrics", "id"]),
    unbuilt("ListBucketMetricsConfigurations", "GET", Target::Bucket, &["metrics"]),
    unbuilt("DeleteBucketMetricsConfiguration", "DELETE", Target::Bucket, &["metrics"]),
    unbuilt("PutObjectLockConfiguration", "PUT", Target::Bucket, &["object-lock"]),
    unbuilt("GetObjectLockConfiguration", "GET", Target::Bucket, &["object-lock"]),
    unbuilt("PutBucketOwnershipControls", "PUT", Target::Bucket, &["ownershipControls"]),
    unbuilt("GetBucketOwnershipControls", "GET", Target::Bucket, &["ownershipControls"]),
    unbuilt("DeleteBucketOwnershipControls", "DELETE", Target::Bucket, &["ownershipControls"]),
    unbuilt("PutBucketPolicy", "PUT", Target::Bucket, &["policy"]),
    unbuilt("GetBucketPolicy", "GET", Target::Bucket, &["policy"]),
    unbuilt("DeleteBucketPolicy", "DELETE", Target::Bucket, &["policy"]),
    unbuilt("GetBucketPolicyStatus", "GET", Target::Bucket, &["policyStatus"]),
    unbuilt("PutPublicAccessBlock", "PUT", Target::Bucket, &["publicAccessBlock"]),
    unbuilt("GetPublicAccessBlock", "GET", Target::Bucket, &["publicAccessBlock"]),
    unbuilt("DeletePublicAccessBlock", "DELETE", Target::Bucket, &["publicAccessBlock"]),
    unbuilt("PutBucketReplication", "PUT", Target::Bucket, &["replication"]),
    unbuilt("GetBucketReplication", "GET", Target::Bucket, &["replication"]),
    unbuilt("DeleteBucketReplication", "DELETE", Target::Bucket, &["replication"]),
    unbuilt("PutBucketRequestPayment", "PUT", Target::Bucket, &["requestPayment"]),
    unbuilt("GetBucketRequestPayment", "GET", Target::Bucket, &["requestPayment"]),
    unbuilt("CreateSession", "GET", Target::Bucket, &["session"]),
    unbuilt("PutBucketWebsite", "PUT", Target::Bucket, &["website"]),
    unbuilt("GetBucketWebsite", "GET", Target::Bucket, &["website"]),
    unbuilt("DeleteBucketWebsite", "DELETE", Target::Bucket, &["website"]),
    unbuilt("PutObjectAcl", "PUT", Target::Object, &["acl"]),
    unbuilt("GetObjectAcl", "GET", Target::Object, &["acl"]),
    unbuilt("PutObjectAnnotation", "PUT", Target::Object, &["annotation"]),
    unbuilt("GetObjectAnnotation", "GET", Target::Object, &["annotation", "annotationName"]),
    unbuilt("ListObjectAnnotations", "GET", Target::Object, &["annotation"]),
    unbuilt("DeleteObjectAnnotation", "DELETE", Target::Object, &["annotation"]),
    unbuilt("UpdateObjectEncryption", "PUT", Target::Object, &["encryption"]),
    unbuilt("PutObjectLegalHold", "PUT", Target::Object, &["legal-hold"]),
    unbuilt("GetObjectLegalHold", "GET", Target::Object, &["legal-hold"]),
    unbuilt("PutObjectRetention", "PUT", Target::Object, &["retention"]),
    unbuilt("GetObjectRetention", "GET", Target::Object, &["retention"]),
    unbuilt("GetObjectTorrent", "GET", Target::Object, &["torrent"]),
    unbuilt("RestoreObject", "POST", Target::Object, &["restore"]),
    Operation {
        selected_by_header: "x-amz-request-route",
        ..unbuilt("WriteGetObjectResponse", "POST", Target::Bucket, &[])
    },
    unbuilt("ListDirectoryBuckets", "GET", Target::Service, &["x-id"]),
];

const PUT_OBJECT: Operation = Operation {
    query: HOISTED_QUERY,
    headers: &[ATTRIBUTES, CHECKSUMS, STREAMED, CONDITIONS, &["x-amz-write-offset-bytes"]],
    ..built("PutObject", "PUT", Target::Object, &[])
};

const fn document(name: &'static str, target: Target, selected_by: &'static [&'static str]) -> Operation {
    Operation { headers: &[CHECKSUMS], body: BodyKind::Document, ..built(name, "PUT", target, selected_by) }
}

impl Operation {
    /// Whether the query name belongs to it.
    #[must_use]
    pub fn takes_query(&self, name: &str) -> bool {
        self.selected_by.contains(&name) || self.query.contains(&name)
    }

    /// Whether the lower-case header belongs to it.
    #[must_use]
    pub fn takes_header(&self, name: &str) -> bool {
        let mut known = COMMON_HEADERS.iter().chain(self.headers.iter().copied().flatten());
        known.any(|header| name == *header || (header.ends_with('-') && name.starts_with(header)))
    }
}

/// The operation of that name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Operation> {
    OPERATIONS.iter().find(|operation| operation.name == name)
}

/// Whether `name` selects some operation with this method and path: it is a subresource, not a mere parameter.
#[must_use]
pub fn is_subresource(method: &str, target: Target, name: &str) -> bool {
    let alike = |operation: &&Operation| operation.method == method && operation.target == target;
    OPERATIONS.iter().filter(alike).any(|operation| operation.selected_by.contains(&name))
}

/// The page `docs/s3-compatibility.md`.
#[must_use]
pub fn compatibility_markdown() -> String {
    let count = OPERATIONS.iter().filter(|operation| operation.built).count();
    let mut out = String::from(
        "# S3 compatibility\n\nGenerated from `gateway/src/api/gate/table.rs`; a test fails when they differ.\n\n",
    );
    let _ = writeln!(
        out,
        "{count} of {} operations are built. Every other one answers 501 `NotImplemented`, and so does",
        OPERATIONS.len()
    );
    out.push_str("a header whose promise is not built: server-side encryption, object lock, grants and other ACLs than `private`\n");
    out.push_str("and `bucket-owner-full-control`, website redirects, storage classes other than `STANDARD`, MFA. Nothing is ignored in silence.\n\n");
    out.push_str("## Built\n\n| operation | request | further query names | headers |\n| --- | --- | --- | --- |\n");
    for operation in OPERATIONS.iter().filter(|operation| operation.built) {
        let headers: Vec<_> = operation.headers.iter().copied().flatten().copied().collect();
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} |",
            operation.name,
            request(operation),
            names(operation.query),
            names(&headers)
        );
    }
    let _ =
        writeln!(out, "\nA header that ends in `-` is a prefix. Every operation also takes {}.", names(COMMON_HEADERS));
    out.push_str("\n## Not built: 501\n\n| operation | request |\n| --- | --- |\n");
    for operation in OPERATIONS.iter().filter(|operation| !operation.built) {
        let _ = writeln!(out, "| {} | {} |", operation.name, request(operation));
    }
    out
}

fn request(operation: &Operation) -> String {
    let path = match operation.target {
        Target::Service => "/",
        Target::Bucket => "/{bucket}",
        Target::Object => "/{bucket}/{key}",
    };
    let query = operation.selected_by.join("&");
    let mark = if query.is_empty() { "" } else { "?" };
    let mut text = format!("`{} {path}{mark}{query}`", operation.method);
    if !operation.selected_by_header.is_empty() {
        let _ = write!(text, " with `{}`", operation.selected_by_header);
    }
    if operation.body == BodyKind::Form {
        text.push_str(" with a `multipart/form-data` body");
    }
    text
}

fn names(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_operations_of_the_api_are_listed_once() {
        let mut names: Vec<_> = OPERATIONS.iter().map(|operation| operation.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), OPERATIONS.len());
        // The 112 of the API's model, and the browser's form, which the model lacks.
        assert_eq!(names.len(), 113);
    }

    #[test]
    fn compatibility_page_equals_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/s3-compatibility.md");
        if std::env::var_os("HOLDFAST_WRITE_DOCS").is_some() {
            std::fs::write(path, compatibility_markdown()).unwrap();
        }
        let page = std::fs::read_to_string(path).expect("docs/s3-compatibility.md");
        assert!(page == compatibility_markdown(), "run the test with HOLDFAST_WRITE_DOCS=1 to write the page anew");
    }
}
