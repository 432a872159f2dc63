//! The last way to a control plane: etcd built from source. It takes a minute, so it runs only when asked for:
//! `cargo test -p kvmoor-dev --test binaries -- --ignored`.

use std::{env, fs, process::Command};

#[tokio::test]
#[ignore = "builds for a minute"]
async fn etcd_is_found_downloaded_or_built() {
    let cache = env::temp_dir().join(format!("kvmoor-binaries-test-{}", std::process::id()));
    let etcd = kvmoor_dev::binaries::ensure_etcd(&cache).await.unwrap();
    let version = Command::new(&etcd).arg("--version").output().unwrap();
    assert!(version.status.success());
    assert!(String::from_utf8_lossy(&version.stdout).contains("etcd Version: 3.7"), "{version:?}");
    assert_eq!(kvmoor_dev::binaries::ensure_etcd(&cache).await.unwrap(), etcd, "found the second time");
    let left = fs::read_dir(cache.join("build")).into_iter().flatten().count();
    assert_eq!(left, 0, "no build tree is left");
    fs::remove_dir_all(&cache).unwrap();
}
