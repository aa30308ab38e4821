//! The AWS SDK for Rust: streaming uploads with trailers, pages, errors as types.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumAlgorithm;
use holdfast_compat_tests::client::curl;
use holdfast_compat_tests::client::sdk::Sdk;
use holdfast_compat_tests::fixture;
use holdfast_compat_tests::target::Endpoint;

use super::Case;

pub(super) const CASES: &[Case] = &[
    ("objects_stream_with_trailers", objects_stream_with_trailers),
    ("pages_and_typed_errors", pages_and_typed_errors),
];

fn objects_stream_with_trailers(endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("sdk")?;
    let sdk = Sdk::new(endpoint)?;
    let dir = fixture::client_dir()?;
    let file = dir.path().join("file");
    fixture::big_file(&file, 11, 20 << 20)?;
    let want = std::fs::read(&file)?;
    sdk.wait(async {
        let body = ByteStream::from_path(&file).await?;
        let put =
            sdk.client().put_object().bucket(&bucket).key("streamed").checksum_algorithm(ChecksumAlgorithm::Sha256);
        let put = put.body(body).send().await?;
        ensure!(put.checksum_sha256().is_some(), "no checksum came back");
        let got = sdk.client().get_object().bucket(&bucket).key("streamed").send().await?;
        ensure!(got.body.collect().await?.to_vec() == want, "another content came back");
        let lifetime = PresigningConfig::expires_in(Duration::from_secs(60))?;
        let url = sdk.client().get_object().bucket(&bucket).key("streamed").presigned(lifetime).await?;
        ensure!(curl::run(&[url.uri()])?.expect(200)?.body == want, "another content behind the URL");
        Ok(())
    })
}

fn pages_and_typed_errors(endpoint: &Endpoint) -> Result<()> {
    let bucket = endpoint.new_bucket("sdk")?;
    let sdk = Sdk::new(endpoint)?;
    sdk.wait(async {
        let client = sdk.client();
        for number in 0..25 {
            client
                .put_object()
                .bucket(&bucket)
                .key(format!("k{number:02}"))
                .body(vec![0; number].into())
                .send()
                .await?;
        }
        let mut pages = client.list_objects_v2().bucket(&bucket).max_keys(7).into_paginator().send();
        let mut sizes = Vec::new();
        while let Some(page) = pages.next().await {
            sizes.extend(page?.contents().iter().filter_map(aws_sdk_s3::types::Object::size));
        }
        ensure!(sizes == (0..25).collect::<Vec<_>>(), "listed sizes {sizes:?}");
        let missing = client.get_object().bucket(&bucket).key("nothing").send().await.err().context("no error")?;
        ensure!(missing.as_service_error().is_some_and(|error| error.is_no_such_key()), "another error: {missing:?}");
        let taken =
            client.put_object().bucket(&bucket).key("k01").if_none_match("*").send().await.err().context("no error")?;
        ensure!(taken.code() == Some("PreconditionFailed"), "another error: {taken:?}");
        Ok(())
    })
}
