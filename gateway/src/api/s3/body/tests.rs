#![expect(clippy::disallowed_methods, reason = "each test joins the tasks that it spawns")]
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Uri};
use s3s::S3ErrorCode;

use super::*;

fn blob(pieces: Vec<Bytes>) -> StreamingBlob {
    StreamingBlob::wrap(futures::stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>)))
}

fn pattern(length: usize) -> Bytes {
    (0..length).map(|i| (i.wrapping_mul(31) >> 3) as u8).collect::<Vec<_>>().into()
}

fn cut(bytes: &Bytes, piece: usize) -> Vec<Bytes> {
    (0..bytes.len()).step_by(piece).map(|at| bytes.slice(at..(at + piece).min(bytes.len()))).collect()
}

async fn read_all(mut body: HashedBody) -> Result<(Vec<u8>, Digests), BodyError> {
    let mut out = Vec::new();
    while let Some(piece) = body.next().await? {
        out.extend_from_slice(&piece);
    }
    Ok((out, body.into_digests()?))
}

#[tokio::test]
async fn bytes_and_digests_are_the_same_however_the_body_is_cut() {
    for length in [0, 1, 4096, 70_000, INLINE_HASH_BYTES + 1, 3 * HASH_BLOCK_BYTES + 7] {
        let bytes = pattern(length);
        let expected = Digests::of(&bytes, Some(ChecksumAlgorithm::Sha1));
        for piece in [61, 4096, 65_536, 1 << 20] {
            let expect = Expectation { length: Some(length as u64), ..Expectation::default() }
                .or_compute(Some(ChecksumAlgorithm::Sha1));
            let body = HashedBody::new(blob(cut(&bytes, piece)), expect, BodyBudget::default());
            let (out, digests) = read_all(body).await.unwrap();
            assert_eq!((out.as_slice(), &digests), (&bytes[..], &expected), "{length} bytes in pieces of {piece}");
        }
    }
}

#[tokio::test]
async fn a_wrong_promise_withholds_the_last_piece() {
    let bytes = pattern(300_000);
    let good = Digests::of(&bytes, None);
    let wrong = |change: fn(&mut Expectation)| {
        let mut expect = Expectation {
            length: Some(300_000),
            sha256: Some(good.sha256),
            md5: Some(good.md5),
            ..Expectation::default()
        };
        change(&mut expect);
        expect
    };
    let cases: [(Expectation, &str); 5] = [
        (wrong(|e| e.md5 = Some([0; 16])), "BadDigest"),
        (wrong(|e| e.sha256 = Some([0; 32])), "XAmzContentSHA256Mismatch"),
        (wrong(|e| e.length = Some(300_001)), "IncompleteBody"),
        (wrong(|e| e.length = Some(299_999)), "IncompleteBody"),
        (wrong(|e| e.checksum = Some(DeclaredChecksum::Value(ChecksumAlgorithm::Crc32, vec![0; 4]))), "BadDigest"),
    ];
    for (expect, code) in cases {
        let (stream, pending) = HashedBody::new(blob(cut(&bytes, 50_000)), expect, BodyBudget::default()).split();
        let items: Vec<_> = stream.collect().await;
        let passed: usize = items.iter().filter_map(|item| item.as_ref().ok()).map(Bytes::len).sum();
        assert!(passed <= 250_000, "{code}: the last piece passed");
        let error = items.into_iter().find_map(Result::err).expect("the stream ends with the error");
        assert_eq!(error.code().0.as_str(), code);
        assert!(matches!(pending.wait().await, Err(BodyError::Unread)));
    }
}

#[tokio::test]
async fn split_gives_the_digests_with_the_last_piece() {
    let bytes = pattern(2_000_000);
    let (stream, pending) =
        HashedBody::new(blob(cut(&bytes, 100_000)), Expectation::default(), BodyBudget::default()).split();
    let out: Vec<u8> = stream
        .map(Result::unwrap)
        .fold(Vec::new(), |mut out, piece| async move {
            out.extend_from_slice(&piece);
            out
        })
        .await;
    assert_eq!(out, bytes);
    assert_eq!(pending.wait().await.unwrap(), Digests::of(&bytes, None));
}

#[tokio::test]
async fn collect_stops_at_its_limit() {
    let bytes = pattern(100_000);
    let body = |piece| HashedBody::new(blob(cut(&bytes, piece)), Expectation::default(), BodyBudget::default());
    assert_eq!(body(1000).collect(100_000).await.unwrap().0, bytes);
    assert_eq!(body(200_000).collect(100_000).await.unwrap().0, bytes);
    assert!(matches!(body(1000).collect(99_999).await, Err(BodyError::TooLarge)));
    assert!(matches!(body(200_000).collect(99_999).await, Err(BodyError::TooLarge)));
}

#[tokio::test]
async fn a_silent_client_holds_no_budget() {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let source =
        futures::stream::unfold(
            receiver,
            |mut receiver| async move { receiver.recv().await.map(|item| (item, receiver)) },
        );
    let source = StreamingBlob::wrap(source.map(Ok::<_, std::io::Error>));
    let budget = BodyBudget::new(1 << 20);
    let mut body = HashedBody::new(source, Expectation::default(), budget.clone());
    let reading = tokio::spawn(async move {
        while body.next().await.unwrap().is_some() {}
        body.into_digests().unwrap()
    });
    let piece = pattern(200_000);
    sender.send(piece.clone()).await.unwrap();
    let all_free = async {
        while budget.free_bytes() < 1 << 20 || sender.capacity() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all_free)
        .await
        .expect("the budget comes back while the client is silent");
    drop(sender);
    assert_eq!(reading.await.unwrap(), Digests::of(&piece, None));
}

#[tokio::test]
async fn without_budget_the_client_is_told_to_slow_down() {
    let mut budget = BodyBudget::new(1 << 20);
    budget.wait = Duration::from_millis(10);
    let all = budget.reserve(usize::MAX).await.unwrap();
    let refused = read_all(HashedBody::new(blob(vec![pattern(100_000)]), Expectation::default(), budget.clone())).await;
    assert_eq!(refused.unwrap_err().code().0, S3ErrorCode::SlowDown);
    let small =
        read_all(HashedBody::new(blob(vec![pattern(IDLE_FLUSH_BYTES)]), Expectation::default(), budget.clone())).await;
    assert!(small.is_ok(), "small change needs no budget");
    drop(all);
    assert_eq!(budget.free_bytes(), 1 << 20);
}

#[test]
fn promises_are_read_from_headers() {
    let check = |headers: &[(&'static str, &'static str)], expected: Result<Option<DeclaredChecksum>, &str>| {
        let map: HeaderMap = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let got = Expectation::from_request(&map, &Uri::from_static("/b/k"), None);
        let got = got.map(|expect| expect.checksum).map_err(|error| error.code().0.as_str().to_owned());
        assert_eq!(got, expected.map_err(str::to_owned), "{headers:?}");
    };
    use ChecksumAlgorithm::{Crc32, Crc64Nvme};
    check(&[], Ok(None));
    check(
        &[("x-amz-checksum-crc32", "y/Q5Jg==")],
        Ok(Some(DeclaredChecksum::Value(Crc32, vec![0xcb, 0xf4, 0x39, 0x26]))),
    );
    check(&[("x-amz-checksum-crc32", "y/Q5")], Err("InvalidRequest"));
    check(&[("x-amz-checksum-crc32", "!")], Err("InvalidRequest"));
    check(&[("x-amz-checksum-crc32", "y/Q5Jg=="), ("x-amz-checksum-crc32c", "y/Q5Jg==")], Err("InvalidRequest"));
    check(&[("x-amz-trailer", "x-amz-checksum-crc64nvme")], Ok(Some(DeclaredChecksum::Trailer(Crc64Nvme))));
    check(&[("x-amz-trailer", "x-amz-meta-a")], Err("InvalidRequest"));
    check(&[("x-amz-sdk-checksum-algorithm", "CRC32")], Err("InvalidRequest"));
    check(
        &[("x-amz-sdk-checksum-algorithm", "CRC32"), ("x-amz-trailer", "x-amz-checksum-crc32")],
        Ok(Some(DeclaredChecksum::Trailer(Crc32))),
    );
    check(
        &[("x-amz-sdk-checksum-algorithm", "SHA1"), ("x-amz-trailer", "x-amz-checksum-crc32")],
        Err("InvalidRequest"),
    );
    check(&[("content-md5", "AAAA")], Err("InvalidDigest"));
    check(&[("content-md5", "?")], Err("InvalidDigest"));
}

#[test]
fn checksums_in_a_presigned_query_count() {
    let uri = Uri::from_static("/b/k?x-amz-checksum-crc32=y%2FQ5Jg%3D%3D&x-id=PutObject");
    let expect = Expectation::from_request(&HeaderMap::new(), &uri, None).unwrap();
    assert_eq!(expect.checksum, Some(DeclaredChecksum::Value(ChecksumAlgorithm::Crc32, vec![0xcb, 0xf4, 0x39, 0x26])));
}

/// Prints the rate; the figure in the module's history comes from a release build of this test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn big_bodies_are_hashed_beside_the_reactor() {
    let piece = pattern(256 * 1024);
    let total = if cfg!(debug_assertions) { 64 } else { 1024 } << 20;
    let body =
        HashedBody::new(blob(vec![piece.clone(); total / piece.len()]), Expectation::default(), BodyBudget::default());
    let start = std::time::Instant::now();
    let (stream, pending) = body.split();
    let mut stream = std::pin::pin!(stream);
    while let Some(item) = stream.next().await {
        item.unwrap();
    }
    let digests = pending.wait().await.unwrap();
    assert_eq!(digests.length, total as u64);
    eprintln!("hashed {:.0} MB/s", total as f64 / 1e6 / start.elapsed().as_secs_f64());
}
