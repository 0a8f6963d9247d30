//! When does freed memory go back to the system? When a storm of pushes is over: a thousand proxies that connect at once
//! leave half as much behind as they need, in holes that nothing will fill while little changes.
#![allow(unsafe_code)] // malloc_trim is a plain C call.

use std::sync::Arc;
use std::time::Duration;

use xds_server::Hub;

use crate::source::ModelSource;

/// How long nothing must have been pushed.
pub const QUIET: Duration = Duration::from_secs(2);
/// Bytes pushed since the last time that make it worth it.
const PUSHED_BYTES_MIN: u64 = 32 << 20;

/// Gives free pages back after each storm, until the task is dropped.
pub async fn tend(hub: Arc<Hub<ModelSource>>) {
    // What was read at the start leaves holes as well.
    let (mut last, mut trimmed) = (0, None);
    loop {
        tokio::time::sleep(QUIET).await;
        let pushed = hub.metrics().pushed_bytes();
        let much = trimmed.is_none_or(|at| pushed >= at + PUSHED_BYTES_MIN);
        if pushed == last && much {
            // Tens of milliseconds with a large heap.
            let _ = tokio::task::spawn_blocking(trim).await;
            trimmed = Some(pushed);
        }
        last = pushed;
    }
}

fn trim() {
    // SAFETY: no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}
