//! boto3: each case is a script.

use anyhow::Result;
use holdfast_compat_tests::client::boto3;
use holdfast_compat_tests::target::Endpoint;

use super::Case;

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {
        pub(super) const CASES: &[Case] = &[$((stringify!($name), $name)),*];
        $(fn $name(endpoint: &Endpoint) -> Result<()> {
            boto3::run(endpoint, include_str!(concat!("../../boto3/", stringify!($name), ".py")), &[]).map(drop)
        })*
    };
}

scripts!(
    basics,
    checksums,
    conditions,
    copy_and_tags,
    lists,
    multipart,
    odd_keys,
    presigned,
    refused,
    rename_and_append,
    select,
    versions,
    virtual_host,
);
