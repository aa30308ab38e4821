//! Frames in and out, over a real node.

use std::collections::BTreeMap;

use holdfast_core::command::mount::{CreateFile, FileRef, FileWrite, Origin, Step, StepOutcome};
use holdfast_core::mount::{Commit, MountId, Opened, ReadFile, Stat};
use http::{Extensions, HeaderMap, Uri};
use http_body_util::BodyExt;
use s3s::auth::{Credentials, SecretKey};

use super::*;
use crate::ops::tests::Node as Running;

fn request(body: Vec<u8>) -> S3Request<Body> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    S3Request {
        input: Body::from(body),
        method: Method::POST,
        uri: Uri::from_static("/_holdfast/v1/mount/photos"),
        headers,
        extensions: Extensions::new(),
        credentials: Some(Credentials { access_key: "root".into(), secret_key: SecretKey::from("secret") }),
        region: None,
        service: None,
        trailing_headers: None,
    }
}

async fn send(node: &Running, body: Vec<u8>) -> S3Result<(Answer, Bytes)> {
    let budget = BodyBudget::new(64 << 20);
    let reply = call(&node.gateway, &budget, request(body), "photos").await?;
    assert_eq!(reply.headers[header::CONTENT_TYPE], CONTENT_TYPE);
    assert!(reply.headers.contains_key(REVISION));
    let framed = BodyExt::collect(reply.output).await.unwrap().to_bytes();
    let (answer, raw) = unframe(&framed).unwrap();
    Ok((answer, framed.slice(raw..)))
}

async fn open(node: &Running, protocol: u32) -> S3Result<Opened> {
    let open = Open { protocol, client: MountId([7; 16]), owner: "a test".into(), ttl_ms: 60_000 };
    match send(node, frame(&Call::Open(open), &[])).await?.0 {
        Answer::Opened(opened) => Ok(opened),
        other => panic!("{other:?}"),
    }
}

fn commit(lease: Revision, number: u64, length: u64) -> Call {
    let bytes = vec![FileWrite { offset: 0, length, from: Origin::Sent(0) }];
    let key = format!("file-{number}").parse().unwrap();
    let steps = vec![Step::Create(CreateFile { key, metadata: BTreeMap::new(), content_type: None, bytes })];
    let (client, directory, now) = (MountId([7; 16]), BTreeMap::new(), "1700000000".to_owned());
    Call::Commit(Commit { client, lease, number, steps, upload: None, directory, now, id: number })
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_of_the_protocol_is_told_which_ones_there_are() {
    let node = Running::start().await;
    let refused = open(&node, PROTOCOL + 1).await.unwrap_err();
    assert_eq!(*refused.code(), S3ErrorCode::NotImplemented);
    let message = refused.message().unwrap();
    assert!(message.contains(&format!("version {PROTOCOL}.")) && message.contains("version 2 "), "{message}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_mebibytes_are_one_commit_and_come_back() {
    let node = Running::start().await;
    let lease = open(&node, PROTOCOL).await.unwrap().lease;
    let bytes: Vec<u8> = (0..SENT_BYTES_MAX as u64).map(|n| (n % 253) as u8).collect();
    let (answer, raw) = send(&node, frame(&commit(lease, 1, bytes.len() as u64), &bytes)).await.unwrap();
    let Answer::Outcomes(outcomes) = answer else { panic!("{answer:?}") };
    let [StepOutcome::Node(made)] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert!(raw.is_empty());
    let file = FileRef { key: made.key.clone(), object: made.object };
    let read = Call::Read(ReadFile { file, generation: Some(made.generation), offset: 3, length: u64::MAX });
    let (answer, raw) = send(&node, frame(&read, &[])).await.unwrap();
    assert!(matches!(answer, Answer::Bytes(now) if now == *made));
    assert!(raw == bytes[3..]);
    // An older commit is told apart from one whose outcome is not known.
    send(&node, frame(&commit(lease, 2, 3), b"abc")).await.unwrap();
    let old = send(&node, frame(&commit(lease, 1, 3), b"abc")).await.unwrap_err();
    assert_eq!((old.code().as_str(), old.status_code()), ("Expired", Some(StatusCode::CONFLICT)));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_call_is_refused() {
    let node = Running::start().await;
    let stat = Call::Stat(Stat { paths: vec!["a".into()] });
    for body in [vec![], vec![0, 0, 0, 9, 1], vec![255; 40], frame(&stat, b"more")] {
        let refused = send(&node, body).await.unwrap_err();
        assert_eq!(*refused.code(), S3ErrorCode::InvalidArgument);
    }
    let long = send(&node, vec![0; MOUNT_BODY_BYTES_MAX + 1]).await.unwrap_err();
    assert_eq!(*long.code(), S3ErrorCode::EntityTooLarge);
    let mut get = request(vec![]);
    get.method = Method::GET;
    let refused = call(&node.gateway, &BodyBudget::default(), get, "photos").await.map(|_| ()).unwrap_err();
    assert_eq!(*refused.code(), S3ErrorCode::MethodNotAllowed);
    node.stop().await;
}
