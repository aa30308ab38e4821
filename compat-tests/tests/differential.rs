//! The same requests to Holdfast and to MinIO. Where the answers differ, [`DIFFERENCES`] says why ours is right by the
//! documentation of Amazon S3.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use holdfast_compat_tests::client::raw::Call;
use holdfast_compat_tests::differential::{Difference, Transcript, compare};
use holdfast_compat_tests::suite::Suite;
use holdfast_compat_tests::target::{Endpoint, Fleet, Target};

type Case = (&'static str, fn(&mut Transcript, &str) -> Result<()>);

const CASES: &[Case] = &[
    ("objects", objects),
    ("conditions_of_writes", conditions_of_writes),
    ("conditions_of_copies_and_deletes", conditions_of_copies_and_deletes),
    ("ranges", ranges),
    ("listing", listing),
    ("versions", versions),
    ("multipart", multipart),
    ("names", names),
    ("subresources", subresources),
    ("bad_requests", bad_requests),
];

const DIFFERENCES: &[Difference] = &[
    Difference {
        step: "delete, If-Match of another ETag",
        ours: "412 PreconditionFailed",
        theirs: "204",
        reason: "DeleteObject: with If-Match the object is deleted only if its ETag matches, else 412",
    },
    Difference {
        step: "object after a refused delete",
        ours: "200",
        theirs: "404 NoSuchKey",
        reason: "follows from the step before: a refused delete deletes nothing",
    },
    Difference {
        step: "copy onto an existing key, If-None-Match: *",
        ours: "412 PreconditionFailed",
        theirs: "200",
        reason: "CopyObject: If-None-Match: * copies only if the destination key does not exist, else 412",
    },
    Difference {
        step: "copy, destination If-Match of another ETag",
        ours: "412 PreconditionFailed",
        theirs: "200",
        reason: "CopyObject: If-Match copies only if the ETag of the destination matches, else 412",
    },
    Difference {
        step: "PUT ?renameObject of a missing source",
        ours: "404 NoSuchKey",
        theirs: "200",
        reason: "RenameObject is an operation of its own; falling through to PutObject creates an empty object",
    },
    Difference {
        step: "destination of a refused rename",
        ours: "404 NoSuchKey",
        theirs: "200",
        reason: "follows from the step before: a refused rename creates nothing",
    },
    Difference {
        step: "PUT ?annotation over an object",
        ours: "501 NotImplemented",
        theirs: "200",
        reason: "PutObjectAnnotation attaches text to an object; falling through to PutObject replaces the object",
    },
    Difference {
        step: "content after ?annotation",
        ours: "data",
        theirs: "note",
        reason: "follows from the step before: what is not built changes nothing",
    },
    Difference {
        step: "part 0",
        ours: "400 InvalidArgument",
        theirs: "400 InvalidPart",
        reason: "UploadPart: part numbers are 1 to 10,000; another one is an invalid argument, as 10001 is",
    },
    Difference {
        step: "complete with no part",
        ours: "400 MalformedXML",
        theirs: "400 InvalidRequest",
        reason: "CompleteMultipartUpload: a list without a part does not match the published schema",
    },
    Difference {
        step: "abort of no upload",
        ours: "404 NoSuchUpload",
        theirs: "204",
        reason: "AbortMultipartUpload: NoSuchUpload when the upload does not exist",
    },
    Difference {
        step: "MaxKeys of list many",
        ours: "1000",
        theirs: "100000",
        reason: "ListObjectsV2: a page never holds more than 1,000 keys, and the reply names the limit in force",
    },
    Difference {
        step: "CRC32 of another body",
        ours: "400 BadDigest",
        theirs: "400 XAmzContentChecksumMismatch",
        reason: "BadDigest is the code of a checksum that does not match; SDKs know no other",
    },
    Difference {
        step: "two checksums",
        ours: "400 InvalidRequest",
        theirs: "400 InvalidArgument",
        reason: "PutObject: more than one checksum header is an invalid request",
    },
    Difference {
        step: "delete of many without XML",
        ours: "400 MalformedXML",
        theirs: "400 MissingContentMD5",
        reason: "the signature covers the body, so Content-MD5 may be absent; what is wrong is the XML",
    },
    Difference {
        step: "put a//b",
        ours: "200",
        theirs: "400 XMinioInvalidObjectName",
        reason: "a key is any UTF-8 of at most 1,024 bytes, not a path",
    },
    Difference {
        step: "put a/../b",
        ours: "200",
        theirs: "400 XMinioInvalidResourceName",
        reason: "a key is any UTF-8 of at most 1,024 bytes, not a path",
    },
    Difference {
        step: "put ./a",
        ours: "200",
        theirs: "400 XMinioInvalidResourceName",
        reason: "a key is any UTF-8 of at most 1,024 bytes, not a path",
    },
    Difference {
        step: "put ..",
        ours: "200",
        theirs: "400 XMinioInvalidResourceName",
        reason: "a key is any UTF-8 of at most 1,024 bytes, not a path",
    },
    Difference {
        step: "put a segment of 300",
        ours: "200",
        theirs: "400 XMinioInvalidObjectName",
        reason: "only the whole key has a limit, its segments have none",
    },
    Difference {
        step: "list a file and what is below",
        ours: "file file/below",
        theirs: "file",
        reason: "a slash has no meaning: both are objects, so both are listed",
    },
    Difference {
        step: "Key of list encoded",
        ours: "%C3%BC%2B%20%25",
        theirs: "%C3%BC%2B+%25",
        reason: "encoding-type=url is percent-encoding; + stands for a space in forms only, and every decoder reads %20",
    },
    Difference {
        step: "version id while suspended",
        ours: "null",
        theirs: "none",
        reason: "an object written to a bucket with versioning suspended has the version id null, and the reply says so",
    },
    Difference {
        step: "abort after completion",
        ours: "404 NoSuchUpload",
        theirs: "204",
        reason: "NoSuchUpload: the upload id might be invalid, or the upload might have been aborted or completed",
    },
    Difference {
        step: "append to nothing",
        ours: "400 InvalidWriteOffset",
        theirs: "400 BadRequest",
        reason: "PutObject with x-amz-write-offset-bytes: InvalidWriteOffset when the offset is not the object's size",
    },
    Difference {
        step: "range bytes=5-2",
        ours: "400 InvalidArgument",
        theirs: "416 InvalidRange",
        reason: "RFC 9110, 14.2: an invalid range may be ignored or rejected; it names no bytes, so it is no unsatisfiable one",
    },
    Difference {
        step: "range items=0-1",
        ours: "400 InvalidArgument",
        theirs: "200",
        reason: "ours is a limit: s3s reads Range before we see it. Bytes are never wrong, the client gets an error instead",
    },
    Difference {
        step: "range bytes=0-1,3-4",
        ours: "400 InvalidArgument",
        theirs: "200",
        reason: "ours is a limit, as above; Amazon S3 has no multiple ranges either and returns the whole object",
    },
];

fn main() -> ExitCode {
    let Ok(fleet) = Fleet::new() else { return ExitCode::FAILURE };
    let mut suite = Suite::new(1);
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    for (name, run) in CASES {
        let (fleet, seen) = (fleet.clone(), seen.clone());
        suite.case(format!("{name} [embedded and minio]"), move || {
            let ours = transcript(&fleet.endpoint(Target::Embedded)?, *run)?;
            let theirs = transcript(&fleet.endpoint(Target::Minio)?, *run)?;
            seen.lock().unwrap_or_else(PoisonError::into_inner).extend(ours.steps());
            compare(&ours, &theirs, DIFFERENCES)
        });
    }
    suite.case("every_listed_difference_belongs_to_a_step", move || {
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let unknown: Vec<_> =
            DIFFERENCES.iter().map(|listed| listed.step).filter(|step| !seen.contains(*step)).collect();
        // With a filter on the command line not every case runs, and then nothing can be said.
        anyhow::ensure!(unknown.is_empty() || std::env::args().len() > 1, "no step is named {unknown:?}");
        Ok(())
    });
    drop(fleet);
    suite.run()
}

fn transcript(endpoint: &Endpoint, run: fn(&mut Transcript, &str) -> Result<()>) -> Result<Transcript> {
    let bucket = endpoint.new_bucket("differential")?;
    let mut transcript = Transcript::new(endpoint);
    run(&mut transcript, &bucket)?;
    Ok(transcript)
}

/// A request without query.
fn call<'a>(
    method: &'a str,
    bucket: &'a str,
    key: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: &'a [u8],
) -> Call<'a> {
    Call { method, bucket, key, query: &[], headers, body }
}

/// A request with query.
fn asked<'a>(
    method: &'a str,
    bucket: &'a str,
    key: &'a str,
    query: &'a [(&'a str, &'a str)],
    body: &'a [u8],
) -> Call<'a> {
    Call { method, bucket, key, query, headers: &[], body }
}

fn objects(t: &mut Transcript, bucket: &str) -> Result<()> {
    t.step("get of nothing", &call("GET", bucket, "k", &[], b""))?;
    t.step("head of nothing", &call("HEAD", bucket, "k", &[], b""))?;
    t.step("delete of nothing", &call("DELETE", bucket, "k", &[], b""))?;
    let put =
        t.step("put", &call("PUT", bucket, "k", &[("content-type", "text/x"), ("x-amz-meta-a", "b")], b"data"))?;
    t.record("ETag of a put", put.header("etag").unwrap_or_default());
    let got = t.step("get", &call("GET", bucket, "k", &[], b""))?;
    for header in ["etag", "content-type", "content-length", "x-amz-meta-a", "accept-ranges", "x-amz-version-id"] {
        t.record(&format!("{header} of a get"), got.header(header).unwrap_or("none"));
    }
    t.step("put again", &call("PUT", bucket, "k", &[], b"other"))?;
    t.step("put into no bucket", &call("PUT", "no-such-bucket-here", "k", &[], b"x"))?;
    t.step("delete", &call("DELETE", bucket, "k", &[], b""))?;
    t.step("get after delete", &call("GET", bucket, "k", &[], b""))?;
    t.step("put of nothing", &call("PUT", bucket, "empty", &[], b""))?;
    t.step("delete of a full bucket", &call("DELETE", bucket, "", &[], b""))?;
    t.step("head of a bucket", &call("HEAD", bucket, "", &[], b""))?;
    t.step("head of no bucket", &call("HEAD", "no-such-bucket-here", "", &[], b""))?;
    Ok(())
}

fn conditions_of_writes(t: &mut Transcript, bucket: &str) -> Result<()> {
    let any = [("if-none-match", "*")];
    t.step("create", &call("PUT", bucket, "k", &any, b"one"))?;
    t.step("create what exists", &call("PUT", bucket, "k", &any, b"two"))?;
    t.step("replace, If-Match of another ETag", &call("PUT", bucket, "k", &[("if-match", "\"wrong\"")], b"two"))?;
    let etag = t.raw().head(bucket, "k")?.header("etag").unwrap_or_default().to_owned();
    t.step("replace, If-Match", &call("PUT", bucket, "k", &[("if-match", &etag)], b"three"))?;
    t.step("replace what is absent", &call("PUT", bucket, "absent", &[("if-match", &etag)], b"x"))?;
    let reads =
        [("if-match", "\"wrong\""), ("if-none-match", "*"), ("if-modified-since", "Fri, 01 Jan 2038 00:00:00 GMT")];
    for (name, value) in reads {
        t.step(&format!("get, {name} {value}"), &call("GET", bucket, "k", &[(name, value)], b""))?;
    }
    t.step(
        "get, if-unmodified-since long ago",
        &call("GET", bucket, "k", &[("if-unmodified-since", "Fri, 01 Jan 1999 00:00:00 GMT")], b""),
    )?;
    Ok(())
}

fn conditions_of_copies_and_deletes(t: &mut Transcript, bucket: &str) -> Result<()> {
    t.raw().put(bucket, "from", &[], b"source")?.expect(200)?;
    t.raw().put(bucket, "to", &[], b"target")?.expect(200)?;
    let source = format!("/{bucket}/from");
    let from = ("x-amz-copy-source", source.as_str());
    t.step(
        "copy, source If-Match of another ETag",
        &call("PUT", bucket, "to", &[from, ("x-amz-copy-source-if-match", "\"wrong\"")], b""),
    )?;
    t.step(
        "copy onto an existing key, If-None-Match: *",
        &call("PUT", bucket, "to", &[from, ("if-none-match", "*")], b""),
    )?;
    t.raw().put(bucket, "to", &[], b"target")?.expect(200)?;
    t.step(
        "copy, destination If-Match of another ETag",
        &call("PUT", bucket, "to", &[from, ("if-match", "\"wrong\"")], b""),
    )?;
    t.step("copy of itself without a change", &call("PUT", bucket, "from", &[from], b""))?;
    t.step(
        "copy of nothing",
        &call("PUT", bucket, "to", &[("x-amz-copy-source", &format!("/{bucket}/nothing"))], b""),
    )?;
    t.step("delete, If-Match of another ETag", &call("DELETE", bucket, "from", &[("if-match", "\"wrong\"")], b""))?;
    t.step("object after a refused delete", &call("GET", bucket, "from", &[], b""))?;
    Ok(())
}

fn ranges(t: &mut Transcript, bucket: &str) -> Result<()> {
    t.raw().put(bucket, "k", &[], b"0123456789")?.expect(200)?;
    for range in [
        "bytes=0-0",
        "bytes=3-5",
        "bytes=8-",
        "bytes=-3",
        "bytes=5-100",
        "bytes=10-",
        "bytes=-0",
        "bytes=5-2",
        "items=0-1",
        "bytes=0-1,3-4",
    ] {
        let reply = t.step(&format!("range {range}"), &call("GET", bucket, "k", &[("range", range)], b""))?;
        if reply.status < 300 {
            t.record(&format!("body of {range}"), reply.text());
            t.record(&format!("content-range of {range}"), reply.header("content-range").unwrap_or("none"));
        }
    }
    Ok(())
}

fn listing(t: &mut Transcript, bucket: &str) -> Result<()> {
    for key in ["a", "b/1", "b/2", "c/d/e", "f", "ü+ %"] {
        t.raw().put(bucket, key, &[], b"x")?.expect(200)?;
    }
    let queries: [(&str, &[(&str, &str)]); 9] = [
        ("all", &[]),
        ("by delimiter", &[("delimiter", "/")]),
        ("by prefix", &[("prefix", "b/")]),
        ("by prefix and delimiter", &[("prefix", "c/"), ("delimiter", "/")]),
        ("two", &[("max-keys", "2")]),
        ("none", &[("max-keys", "0")]),
        ("after", &[("start-after", "b/1")]),
        ("encoded", &[("encoding-type", "url"), ("prefix", "ü")]),
        ("many", &[("max-keys", "100000")]),
    ];
    for (name, query) in queries {
        let query = [&[("list-type", "2")][..], query].concat();
        let page = t.step(&format!("list {name}"), &asked("GET", bucket, "", &query, b""))?.text();
        for element in ["Key", "Prefix", "KeyCount", "IsTruncated", "MaxKeys"] {
            let found = holdfast_compat_tests::client::raw::elements(&page, element);
            t.record(&format!("{element} of list {name}"), found.join(" "));
        }
    }
    t.step("list, max-keys of a word", &asked("GET", bucket, "", &[("list-type", "2"), ("max-keys", "many")], b""))?;
    t.step("list, negative max-keys", &asked("GET", bucket, "", &[("list-type", "2"), ("max-keys", "-1")], b""))?;
    t.step("list, unknown encoding", &asked("GET", bucket, "", &[("list-type", "2"), ("encoding-type", "x")], b""))?;
    t.step("list of no bucket", &asked("GET", "no-such-bucket-here", "", &[("list-type", "2")], b""))?;
    Ok(())
}

fn versions(t: &mut Transcript, bucket: &str) -> Result<()> {
    let put = t.raw().put(bucket, "k", &[], b"never")?.expect(200)?;
    t.record("version id before versioning", put.header("x-amz-version-id").unwrap_or("none"));
    t.raw().set_versioning(bucket, "Enabled")?;
    let put = t.raw().put(bucket, "k", &[], b"one")?.expect(200)?;
    let one = put.header("x-amz-version-id").unwrap_or_default().to_owned();
    let deleted = t.step("delete makes a marker", &call("DELETE", bucket, "k", &[], b""))?;
    t.record("x-amz-delete-marker of a delete", deleted.header("x-amz-delete-marker").unwrap_or("none"));
    let marker = deleted.header("x-amz-version-id").unwrap_or_default().to_owned();
    let gone = t.step("get under a marker", &call("GET", bucket, "k", &[], b""))?;
    t.record("x-amz-delete-marker of a get", gone.header("x-amz-delete-marker").unwrap_or("none"));
    t.step("get of a marker", &asked("GET", bucket, "k", &[("versionId", &marker)], b""))?;
    t.step("head of a marker", &asked("HEAD", bucket, "k", &[("versionId", &marker)], b""))?;
    let old = t.step("get of a version", &asked("GET", bucket, "k", &[("versionId", &one)], b""))?;
    t.record("body of a version", old.text());
    let null = t.step("get of the null version", &asked("GET", bucket, "k", &[("versionId", "null")], b""))?;
    t.record("body of the null version", null.text());
    t.step("delete of a marker", &asked("DELETE", bucket, "k", &[("versionId", &marker)], b""))?;
    let back = t.step("get after the marker is gone", &call("GET", bucket, "k", &[], b""))?;
    t.record("body after the marker is gone", back.text());
    t.step("delete of a version", &asked("DELETE", bucket, "k", &[("versionId", &one)], b""))?;
    t.step("delete of a version again", &asked("DELETE", bucket, "k", &[("versionId", &one)], b""))?;
    t.step("get of a deleted version", &asked("GET", bucket, "k", &[("versionId", &one)], b""))?;
    t.step("get of no version id", &asked("GET", bucket, "k", &[("versionId", "not-an-id")], b""))?;
    t.raw().set_versioning(bucket, "Suspended")?;
    let put = t.raw().put(bucket, "k", &[], b"suspended")?.expect(200)?;
    t.record("version id while suspended", put.header("x-amz-version-id").unwrap_or("none"));
    t.step(
        "versioning of a word",
        &asked(
            "PUT",
            bucket,
            "",
            &[("versioning", "")],
            b"<VersioningConfiguration><Status>On</Status></VersioningConfiguration>",
        ),
    )?;
    Ok(())
}

fn multipart(t: &mut Transcript, bucket: &str) -> Result<()> {
    let upload = t.raw().create_upload(bucket, "k", &[])?;
    let small = t.raw().upload_part(bucket, "k", &upload, 1, b"small")?;
    let last = t.raw().upload_part(bucket, "k", &upload, 2, b"last")?;
    t.step("part 0", &asked("PUT", bucket, "k", &[("partNumber", "0"), ("uploadId", &upload)], b"x"))?;
    t.step("part 10001", &asked("PUT", bucket, "k", &[("partNumber", "10001"), ("uploadId", &upload)], b"x"))?;
    t.step("part of no upload", &asked("PUT", bucket, "k", &[("partNumber", "1"), ("uploadId", "nothing")], b"x"))?;
    t.step("part of another key", &asked("PUT", bucket, "other", &[("partNumber", "1"), ("uploadId", &upload)], b"x"))?;
    let listed = t.step("list of parts", &asked("GET", bucket, "k", &[("uploadId", &upload)], b""))?;
    t.record("sizes of parts", holdfast_compat_tests::client::raw::elements(&listed.text(), "Size").join(" "));
    let complete = |t: &mut Transcript, name: &str, parts: &[(u32, &str)]| {
        let parts: String = parts
            .iter()
            .map(|(n, etag)| format!("<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>"))
            .collect();
        let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        t.step(name, &asked("POST", bucket, "k", &[("uploadId", &upload)], body.as_bytes()))
    };
    complete(t, "complete with a small part", &[(1, &small), (2, &last)])?;
    complete(t, "complete out of order", &[(2, &last), (1, &small)])?;
    complete(t, "complete with a wrong ETag", &[(2, &small)])?;
    complete(t, "complete with a missing part", &[(3, &last)])?;
    complete(t, "complete with no part", &[])?;
    let done = complete(t, "complete", &[(2, &last)])?;
    t.record("ETag of a multipart object", done.element("ETag").unwrap_or_default());
    t.step("abort after completion", &asked("DELETE", bucket, "k", &[("uploadId", &upload)], b""))?;
    t.step("abort of no upload", &asked("DELETE", bucket, "k", &[("uploadId", "nothing")], b""))?;
    Ok(())
}

fn names(t: &mut Transcript, bucket: &str) -> Result<()> {
    for name in
        ["ab", "UPPER", "with_underscore", "dots..dots", "-dash", "dash-", "192.168.1.1", &"a".repeat(64), "with space"]
    {
        t.step(&format!("bucket {name}"), &call("PUT", &name.replace(' ', "%20"), "", &[], b""))?;
    }
    t.step("bucket again", &call("PUT", bucket, "", &[], b""))?;
    for key in ["/leading", "a//b", "a/../b", "./a", "trailing/", "..", "back\\slash", &"x".repeat(300)] {
        let shown = if key.len() > 20 { "a segment of 300" } else { key };
        t.step(&format!("put {shown}"), &call("PUT", bucket, key, &[], b"x"))?;
    }
    t.step("put of 1025 bytes", &call("PUT", bucket, &"y/".repeat(513)[..1025], &[], b"x"))?;
    t.step("put a file", &call("PUT", bucket, "file", &[], b"x"))?;
    t.step("put below a file", &call("PUT", bucket, "file/below", &[], b"x"))?;
    t.step("get a file that has something below", &call("GET", bucket, "file", &[], b""))?;
    let listed = t.raw().list(bucket, "file")?;
    t.record("list a file and what is below", listed.join(" "));
    Ok(())
}

fn subresources(t: &mut Transcript, bucket: &str) -> Result<()> {
    t.raw().put(bucket, "k", &[], b"data")?.expect(200)?;
    let rename = Call {
        method: "PUT",
        bucket,
        key: "renamed",
        query: &[("renameObject", "")],
        headers: &[("x-amz-rename-source", "nothing")],
        body: b"",
    };
    t.step("PUT ?renameObject of a missing source", &rename)?;
    t.step("destination of a refused rename", &call("GET", bucket, "renamed", &[], b""))?;
    t.step(
        "PUT ?annotation over an object",
        &asked("PUT", bucket, "k", &[("annotation", ""), ("annotationName", "n")], b"note"),
    )?;
    let after = t.raw().get(bucket, "k", &[])?.expect(200)?.text();
    t.record("content after ?annotation", after);
    t.raw().put(bucket, "k", &[], b"data")?.expect(200)?;
    t.step("tags of an untagged object", &asked("GET", bucket, "k", &[("tagging", "")], b""))?;
    t.step("tags of nothing", &asked("GET", bucket, "nothing", &[("tagging", "")], b""))?;
    t.step("tags of an untagged bucket", &asked("GET", bucket, "", &[("tagging", "")], b""))?;
    t.step("location of a bucket", &asked("GET", bucket, "", &[("location", "")], b""))?;
    t.step("versioning of a new bucket", &asked("GET", bucket, "", &[("versioning", "")], b""))?;
    t.step("uploads of a new bucket", &asked("GET", bucket, "", &[("uploads", "")], b""))?;
    Ok(())
}

fn bad_requests(t: &mut Transcript, bucket: &str) -> Result<()> {
    t.step("delete of many without XML", &asked("POST", bucket, "", &[("delete", "")], b"this is not XML"))?;
    t.step("versioning without XML", &asked("PUT", bucket, "", &[("versioning", "")], b"<"))?;
    t.step("MD5 that is none", &call("PUT", bucket, "k", &[("content-md5", "bm90IG1kNQ==")], b"x"))?;
    t.step("MD5 of another body", &call("PUT", bucket, "k", &[("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==")], b"x"))?;
    t.step("CRC32 of another body", &call("PUT", bucket, "k", &[("x-amz-checksum-crc32", "AAAAAA==")], b"x"))?;
    t.step(
        "two checksums",
        &call(
            "PUT",
            bucket,
            "k",
            &[("x-amz-checksum-crc32", "jNydww=="), ("x-amz-checksum-sha1", "EfatjsUqKYRqnwfy1+W0mHCxIVQ=")],
            b"x",
        ),
    )?;
    t.step("what was refused", &call("GET", bucket, "k", &[], b""))?;
    t.step("copy source without a key", &call("PUT", bucket, "k", &[("x-amz-copy-source", "/only-a-bucket")], b""))?;
    t.step("unknown storage class", &call("PUT", bucket, "k", &[("x-amz-storage-class", "NOTHING")], b"x"))?;
    t.step("too much metadata", &call("PUT", bucket, "k", &[("x-amz-meta-big", &"m".repeat(3000))], b"x"))?;
    t.step("append to nothing", &call("PUT", bucket, "absent", &[("x-amz-write-offset-bytes", "7")], b"x"))?;
    Ok(())
}
