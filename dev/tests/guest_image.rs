//! Boots the guest image in a real QEMU, without libvirt and without KVM, and looks at what the rest of the tests
//! build on: its seed, its address, its answers, its state, and how it ends.

#![allow(clippy::unwrap_used, clippy::unwrap_in_result, reason = "a test ends at the first thing that goes wrong")]

use std::{
    fs::{self, File},
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use kvmoor_dev::guest_image;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    process::{Child, Command},
    time::{sleep, timeout},
};

const BOOT: Duration = Duration::from_secs(60);
const POWER_OFF: Duration = Duration::from_secs(20);
const EFFECT: Duration = Duration::from_secs(20);

const META_DATA: &str = "instance-id: 6f1c\nlocal-hostname: from-meta-data\n";

/// The styles that YAML writers and people use.
const USER_DATA: &str = r#"#cloud-config
hostname: 'guest-1'
ssh_authorized_keys: ["ssh-ed25519 AAAA one@test", 'ssh-ed25519 BBBB two@test']
users:
  - default
  - name: operator
    ssh_authorized_keys:
    - ssh-ed25519 CCCC
      three@test
runcmd:
- echo "as a string" on $(hostname)
- [sh, -c, "echo as a list: $0", 'it''s']
- - echo
  - "as a \"block\" list"
- |
  if true; then
    echo as a block
  fi
"#;

#[tokio::test]
async fn boots_from_a_seed_keeps_state_and_powers_off() {
    let guest = Guest::start("seeded", "q35", &["-smp", "2"], Some((META_DATA, USER_DATA))).await;

    guest.wait_for("", "guest-1\n", BOOT).await;
    assert_eq!(guest.get("instance-id").await.unwrap(), "6f1c\n");
    assert_eq!(guest.get("nproc").await.unwrap(), "2\n");
    assert_eq!(
        guest.get("ssh-authorized-keys").await.unwrap(),
        "ssh-ed25519 AAAA one@test\nssh-ed25519 BBBB two@test\nssh-ed25519 CCCC three@test\n"
    );
    let log = "as a string on guest-1\nas a list: it's\nas a \"block\" list\nas a block\n";
    guest.wait_for("runcmd.log", log, EFFECT).await;

    assert_eq!(guest.post("cgi-bin/ram", "in memory").await, "in memory");
    assert_eq!(guest.post("cgi-bin/disk", "on disk").await, "on disk");
    assert_eq!(guest.get("cgi-bin/ram").await.unwrap(), "in memory");
    assert_eq!(guest.post("cgi-bin/disk", "on disk\n& again").await, "on disk\n& again");

    let first_boot = guest.get("boot-id").await.unwrap();
    guest.qmp("system_reset", json!({})).await;
    guest
        .wait_until(BOOT, "boots again", async |guest| guest.get("boot-id").await.is_some_and(|id| id != first_boot))
        .await;
    assert_eq!(guest.get("cgi-bin/ram").await.unwrap(), "");
    assert_eq!(guest.get("cgi-bin/disk").await.unwrap(), "on disk\n& again");
    assert_eq!(guest.get("runcmd.log").await.unwrap(), log, "commands run once per instance");

    guest.power_off().await;
}

#[tokio::test]
async fn boots_without_a_seed_and_takes_a_processor_into_use() {
    let guest = Guest::start("bare", "pc", &["-smp", "1,sockets=2,cores=1,maxcpus=2"], None).await;

    guest.wait_for("", "tiny\n", BOOT).await;
    assert_eq!(guest.get("nproc").await.unwrap(), "1\n");
    let processor = json!({"driver": "qemu64-x86_64-cpu", "socket-id": 1, "core-id": 0, "thread-id": 0});
    guest.qmp("device_add", processor).await;
    guest.wait_for("nproc", "2\n", EFFECT).await;

    guest.power_off().await;
}

/// A running QEMU; killed when dropped.
struct Guest {
    directory: PathBuf,
    port: u16,
    client: reqwest::Client,
    process: Child,
}

impl Guest {
    async fn start(name: &str, machine: &str, options: &[&str], seed: Option<(&str, &str)>) -> Self {
        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let image = guest_image::ensure(scratch).await.unwrap();
        let directory = scratch.join(format!("guest-image-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();

        let overlay = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"];
        let created =
            Command::new("qemu-img").args(overlay).arg(&image).arg("disk.qcow2").current_dir(&directory).status();
        assert!(created.await.unwrap().success());

        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let network = format!("user,id=net,hostfwd=tcp:127.0.0.1:{port}-:80");
        let mut command = Command::new("qemu-system-x86_64");
        command
            .current_dir(&directory)
            .kill_on_drop(true)
            .args(["-accel", "tcg", "-machine", machine, "-m", "96", "-nodefaults", "-display", "none", "-vga", "std"])
            .args(["-drive", "file=disk.qcow2,if=virtio,format=qcow2"])
            .args(["-netdev", &network, "-device", "virtio-net-pci,netdev=net"])
            .args(["-serial", "file:serial.log", "-qmp", "unix:qmp,server=on,wait=off"])
            .args(options);
        if let Some((meta_data, user_data)) = seed {
            write_seed(&directory.join("seed.img"), &[("meta-data", meta_data), ("user-data", user_data)]);
            command.args(["-drive", "file=seed.img,if=virtio,format=raw,readonly=on"]);
        }
        let process = command.spawn().unwrap();
        // The client wants one even for plain HTTP; it is an error to install a second.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { directory, port, client: reqwest::Client::new(), process }
    }

    /// The guest's answer, or nothing while it does not answer.
    async fn get(&self, path: &str) -> Option<String> {
        let request = self.client.get(self.url(path)).timeout(Duration::from_secs(1));
        let response = request.send().await.ok()?.error_for_status().ok()?;
        response.text().await.ok()
    }

    async fn post(&self, path: &str, body: &'static str) -> String {
        let request = self.client.post(self.url(path)).body(body).timeout(Duration::from_secs(5));
        request.send().await.unwrap().error_for_status().unwrap().text().await.unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    async fn wait_for(&self, path: &str, answer: &str, limit: Duration) {
        let what = format!("answers /{path} with {answer:?}");
        self.wait_until(limit, &what, async |guest| guest.get(path).await.as_deref() == Some(answer)).await;
    }

    async fn wait_until(&self, limit: Duration, what: &str, condition: impl AsyncFn(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self).await {
            assert!(start.elapsed() < limit, "no guest that {what} within {limit:?}; its console:\n{}", self.console());
            sleep(Duration::from_millis(100)).await;
        }
        println!("after {:.1} s the guest {what}", start.elapsed().as_secs_f64());
    }

    /// Presses the power button and waits for QEMU's end.
    async fn power_off(mut self) {
        self.qmp("system_powerdown", json!({})).await;
        let status = timeout(POWER_OFF, self.process.wait()).await;
        let console = self.console();
        fs::remove_dir_all(&self.directory).unwrap();
        assert!(status.is_ok_and(|status| status.unwrap().success()), "no power-off; the guest's console:\n{console}");
    }

    async fn qmp(&self, command: &str, arguments: Value) {
        let mut monitor = BufReader::new(UnixStream::connect(self.directory.join("qmp")).await.unwrap());
        for request in [json!({"execute": "qmp_capabilities"}), json!({"execute": command, "arguments": arguments})] {
            monitor.write_all(request.to_string().as_bytes()).await.unwrap();
            let mut line = String::new();
            // The greeting and events come in between.
            while !line.contains("\"return\"") {
                line.clear();
                assert_ne!(monitor.read_line(&mut line).await.unwrap(), 0, "QEMU closed its monitor");
                assert!(!line.contains("\"error\""), "QEMU refused {request}: {line}");
            }
        }
    }

    fn console(&self) -> String {
        fs::read(self.directory.join("serial.log"))
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }
}

fn write_seed(path: &Path, files: &[(&str, &str)]) {
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    file.set_len(1 << 20).unwrap();
    fatfs::format_volume(&mut file, FormatVolumeOptions::new().volume_label(*b"CIDATA     ")).unwrap();
    let seed = FileSystem::new(file, FsOptions::new()).unwrap();
    for (name, content) in files {
        seed.root_dir().create_file(name).unwrap().write_all(content.as_bytes()).unwrap();
    }
    seed.unmount().unwrap();
}
