//! Aborting uploads that nobody completes.
//!
//! Their parts are invisible and cost space until then. Some stores (MinIO) list uploads by exact key only and show none here;
//! these clean up by themselves after a day.

use std::time::SystemTime;

use super::super::{Error, Result, SweepOptions, Swept};
use super::put::abort;
use super::{Bucket, time_of};

/// Pages of uploads looked at in one sweep; the next sweep sees the rest.
const PAGES_MAX: usize = 100;

pub(super) async fn sweep(bucket: &Bucket, options: &SweepOptions) -> Result<Swept> {
    let mut swept = Swept::default();
    let prefix = format!("{}{}", bucket.prefix, options.prefix);
    let mut marker: (Option<String>, Option<String>) = (None, None);
    for _ in 0..PAGES_MAX {
        let send = || {
            let request = bucket.client.list_multipart_uploads().bucket(&bucket.bucket).prefix(&prefix);
            request.set_key_marker(marker.0.clone()).set_upload_id_marker(marker.1.clone()).send()
        };
        let page = match bucket.small_call("sweep", &bucket.name, options.deadline, send).await {
            Ok(page) => page,
            Err(failure) => match failure.error {
                // A store that cannot list uploads has none to sweep that we could find.
                Error::Unsupported { .. } => return Ok(swept),
                error => return Err(error),
            },
        };
        for upload in page.uploads() {
            let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
            let age = SystemTime::now().duration_since(time_of(upload.initiated()));
            let is_due = key.starts_with(&prefix) && age.is_ok_and(|age| age >= options.older_than);
            match is_due && abort(bucket, key, id).await {
                true => swept.removed += 1,
                false => swept.kept += 1,
            }
        }
        if page.is_truncated() != Some(true) {
            break;
        }
        marker = (page.next_key_marker().map(str::to_owned), page.next_upload_id_marker().map(str::to_owned));
    }
    Ok(swept)
}
