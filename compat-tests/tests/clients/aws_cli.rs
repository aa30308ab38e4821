//! aws-cli, as Debian ships it.

use anyhow::{Result, ensure};
use holdfast_compat_tests::client::aws_cli::AwsCli;
use holdfast_compat_tests::client::curl;
use holdfast_compat_tests::fixture;
use holdfast_compat_tests::target::Endpoint;
use serde_json::Value;

use super::Case;

pub(super) const CASES: &[Case] = &[
    ("a_file_goes_in_and_comes_out", a_file_goes_in_and_comes_out),
    ("two_hundred_mebibytes_keep_their_hash", two_hundred_mebibytes_keep_their_hash),
    ("a_deleted_object_is_restored_from_its_versions", a_deleted_object_is_restored_from_its_versions),
    ("copies_ranges_and_tags", copies_ranges_and_tags),
    ("a_presigned_url_opens_one_object", a_presigned_url_opens_one_object),
    ("wrong_keys_get_nothing", wrong_keys_get_nothing),
    ("select_object_content_writes_a_file", select_object_content_writes_a_file),
];

fn json(text: &str) -> Result<Value> {
    Ok(serde_json::from_str(text)?)
}

fn a_file_goes_in_and_comes_out(endpoint: &Endpoint) -> Result<()> {
    let aws = AwsCli::new(endpoint)?;
    let dir = fixture::client_dir()?;
    let (here, back) = (dir.path().join("here"), dir.path().join("back"));
    std::fs::write(&here, "hello")?;
    let url = format!("s3://{}", endpoint.bucket_name("aws"));
    let object = format!("{url}/dir/name with ünïcode");
    aws.run(&["s3", "mb", &url])?;
    ensure!(aws.run(&["s3", "ls"])?.contains(&url["s3://".len()..]), "the new bucket is not listed");
    aws.run(&["s3", "cp", &here.to_string_lossy(), &object])?;
    let listed = aws.run(&["s3", "ls", "--recursive", &url])?;
    ensure!(listed.contains("dir/name with ünïcode"), "not listed: {listed}");
    aws.run(&["s3", "cp", &object, &back.to_string_lossy()])?;
    ensure!(std::fs::read_to_string(&back)? == "hello", "another content came back");
    aws.run(&["s3", "mv", &object, &format!("{url}/moved")])?;
    aws.refuse(&["s3", "rb", &url], "BucketNotEmpty")?;
    aws.run(&["s3", "rm", "--recursive", &url])?;
    ensure!(aws.run(&["s3", "ls", "--recursive", &url]).is_ok_and(|listed| listed.is_empty()), "something is left");
    aws.run(&["s3", "rb", &url])?;
    Ok(())
}

fn two_hundred_mebibytes_keep_their_hash(endpoint: &Endpoint) -> Result<()> {
    let aws = AwsCli::new(endpoint)?;
    let bucket = endpoint.new_bucket("aws")?;
    let dir = fixture::client_dir()?;
    let (here, back) = (dir.path().join("here"), dir.path().join("back"));
    fixture::big_file(&here, 1, 200 << 20)?;
    let object = format!("s3://{bucket}/large.bin");
    aws.run(&["s3", "cp", "--quiet", &here.to_string_lossy(), &object])?;
    let head = json(&aws.run(&["s3api", "head-object", "--bucket", &bucket, "--key", "large.bin"])?)?;
    ensure!(head["ContentLength"] == 200 << 20, "length {}", head["ContentLength"]);
    ensure!(
        head["ETag"].as_str().is_some_and(|etag| etag.ends_with("-25\"")),
        "ETag {} is not of 25 parts",
        head["ETag"]
    );
    aws.run(&["s3", "cp", "--quiet", &object, &back.to_string_lossy()])?;
    ensure!(fixture::file_hash(&here)? == fixture::file_hash(&back)?, "another content came back");
    Ok(())
}

fn a_deleted_object_is_restored_from_its_versions(endpoint: &Endpoint) -> Result<()> {
    let aws = AwsCli::new(endpoint)?;
    let bucket = endpoint.new_bucket("aws")?;
    let dir = fixture::client_dir()?;
    let file = dir.path().join("file");
    let path = file.to_string_lossy().into_owned();
    aws.run(&["s3api", "put-bucket-versioning", "--bucket", &bucket, "--versioning-configuration", "Status=Enabled"])?;
    for content in ["first", "second"] {
        std::fs::write(&file, content)?;
        aws.run(&["s3api", "put-object", "--bucket", &bucket, "--key", "k", "--body", &path])?;
    }
    let deleted = json(&aws.run(&["s3api", "delete-object", "--bucket", &bucket, "--key", "k"])?)?;
    aws.refuse(&["s3api", "get-object", "--bucket", &bucket, "--key", "k", &path], "NoSuchKey")?;
    let listed = json(&aws.run(&["s3api", "list-object-versions", "--bucket", &bucket])?)?;
    let versions = listed["Versions"].as_array().map_or(0, Vec::len);
    let markers = listed["DeleteMarkers"].as_array().map_or(0, Vec::len);
    ensure!((versions, markers) == (2, 1), "{versions} versions and {markers} delete markers are listed");
    let old = listed["Versions"][1]["VersionId"].as_str().unwrap_or_default();
    aws.run(&["s3api", "get-object", "--bucket", &bucket, "--key", "k", "--version-id", old, &path])?;
    ensure!(std::fs::read_to_string(&file)? == "first", "the old version has another content");
    let marker = deleted["VersionId"].as_str().unwrap_or_default();
    aws.run(&["s3api", "delete-object", "--bucket", &bucket, "--key", "k", "--version-id", marker])?;
    aws.run(&["s3api", "get-object", "--bucket", &bucket, "--key", "k", &path])?;
    ensure!(std::fs::read_to_string(&file)? == "second", "not the latest version was restored");
    Ok(())
}

fn copies_ranges_and_tags(endpoint: &Endpoint) -> Result<()> {
    let aws = AwsCli::new(endpoint)?;
    let bucket = endpoint.new_bucket("aws")?;
    let dir = fixture::client_dir()?;
    let file = dir.path().join("file");
    let path = file.to_string_lossy().into_owned();
    std::fs::write(&file, "0123456789")?;
    let put = ["s3api", "put-object", "--bucket", &bucket, "--key", "a", "--body", &path, "--metadata", "m=1"];
    aws.run(&[&put[..], &["--tagging", "t=1"]].concat())?;
    let source = format!("{bucket}/a");
    aws.run(&["s3api", "copy-object", "--bucket", &bucket, "--key", "b", "--copy-source", &source])?;
    let head = json(&aws.run(&["s3api", "head-object", "--bucket", &bucket, "--key", "b"])?)?;
    ensure!(head["Metadata"]["m"] == "1", "a copy lost its metadata: {head}");
    aws.run(&["s3api", "get-object", "--bucket", &bucket, "--key", "b", "--range", "bytes=2-4", &path])?;
    ensure!(std::fs::read_to_string(&file)? == "234", "another range came back");
    let tagged = json(&aws.run(&["s3api", "get-object-tagging", "--bucket", &bucket, "--key", "b"])?)?;
    ensure!(tagged["TagSet"][0]["Value"] == "1", "a copy lost its tags: {tagged}");
    Ok(())
}

fn a_presigned_url_opens_one_object(endpoint: &Endpoint) -> Result<()> {
    let aws = AwsCli::new(endpoint)?;
    let bucket = endpoint.new_bucket("aws")?;
    endpoint.raw().put(&bucket, "dir/a b", &[], b"presigned")?.expect(200)?;
    let url = aws.run(&["s3", "presign", &format!("s3://{bucket}/dir/a b"), "--expires-in", "60"])?;
    let reply = curl::run(&[url.trim()])?.expect(200)?;
    ensure!(reply.body == b"presigned", "another content came back");
    curl::run(&[&url.trim().replace("a%20b", "c")])?.expect(403)?;
    curl::run(&["-X", "DELETE", url.trim()])?.expect(403)?;
    Ok(())
}

fn wrong_keys_get_nothing(endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("aws")?;
    let mut wrong = endpoint.clone();
    wrong.secret_key = "not-the-secret-of-this-key".to_owned();
    AwsCli::new(&wrong)?.refuse(&["s3", "ls", &format!("s3://{bucket}")], "SignatureDoesNotMatch")?;
    wrong.access_key = "nobody-has-this-key".to_owned();
    AwsCli::new(&wrong)?.refuse(&["s3", "ls", &format!("s3://{bucket}")], "InvalidAccessKeyId")?;
    Ok(())
}

fn select_object_content_writes_a_file(endpoint: &Endpoint) -> Result<()> {
    let aws = AwsCli::new(endpoint)?;
    let bucket = endpoint.new_bucket("aws")?;
    let dir = fixture::client_dir()?;
    let (here, found) = (dir.path().join("here"), dir.path().join("found"));
    std::fs::write(&here, "name,age\nJane,30\nJohn,25\n")?;
    aws.run(&["s3", "cp", &here.to_string_lossy(), &format!("s3://{bucket}/a.csv")])?;
    let expression = "SELECT s.name FROM S3Object s WHERE s.age = 25";
    let input = r#"{"CSV": {"FileHeaderInfo": "USE"}}"#;
    let target = ["s3api", "select-object-content", "--bucket", &bucket, "--key", "a.csv", "--expression", expression];
    let forms =
        ["--expression-type", "SQL", "--input-serialization", input, "--output-serialization", r#"{"CSV": {}}"#];
    let file = found.to_string_lossy();
    aws.run(&[&target[..], &forms[..], &[&file]].concat())?;
    ensure!(std::fs::read_to_string(&found)? == "John\n", "selected something else");
    Ok(())
}
