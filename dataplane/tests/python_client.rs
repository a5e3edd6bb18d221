//! SPDK's own Python client drives the data plane: `pip install spdk`, then
//! `VDA_SPDK_RPC=/path/to/spdk-rpc cargo test -p vda-dataplane --test python_client -- --ignored`.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use vda_ports::Port;

struct Target {
    child: Child,
    socket: PathBuf,
    client: PathBuf,
}

impl Target {
    fn start(dir: &Path) -> Self {
        let client = std::env::var_os("VDA_SPDK_RPC").expect("VDA_SPDK_RPC names SPDK's spdk-rpc").into();
        let socket = dir.join("dp.sock");
        let child = Command::new(env!("CARGO_BIN_EXE_vda_dataplane"))
            .args(["--wait-for-rpc", "-r"])
            .arg(&socket)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "it does not listen");
            std::thread::yield_now();
        }
        Self { child, socket, client }
    }

    /// Runs the client with words; gives whether it succeeded, and what it printed.
    fn try_run(&self, words: &str) -> (bool, String) {
        let output =
            Command::new(&self.client).arg("-s").arg(&self.socket).args(words.split(' ')).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap().trim().to_owned())
    }

    fn run(&self, words: &str) -> String {
        let (ok, printed) = self.try_run(words);
        assert!(ok, "{words}: {printed}");
        printed
    }

    /// Runs the client with a file as its input.
    fn feed(&self, words: &str, file: &Path) {
        let input = std::fs::File::open(file).unwrap();
        let mut command = Command::new(&self.client);
        let output =
            command.arg("-s").arg(&self.socket).args(words.split(' ')).stdin(input).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&said));
    }

    fn json(&self, words: &str) -> Value {
        let printed = self.run(words);
        serde_json::from_str(&printed).unwrap_or_else(|e| panic!("{words}: {e}: {printed}"))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `save_config`, a new process, `load_config`, `save_config`: the same.
#[test]
#[ignore = "needs SPDK's Python client, named by VDA_SPDK_RPC"]
fn spdk_rpc_saves_and_loads_a_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    std::fs::File::create(&disk).unwrap().set_len(256 << 20).unwrap();
    let nqn = "nqn.2016-06.io.spdk:s1";
    let reserved = Port::reserve().unwrap();
    let port = reserved.number();
    let target = Target::start(dir.path());
    for words in [
        "bdev_set_options --no-auto-examine",
        "framework_start_init",
        "bdev_null_create null0 64 4096",
        "bdev_malloc_create -b m0 64 4096",
        &format!("bdev_aio_create {} aio0 4096", disk.display()),
        "bdev_lvol_create_lvstore aio0 lvs0 -c 1048576",
        "bdev_lvol_create -l lvs0 v0 32 -t",
        "bdev_set_qos_limit lvs0/v0 --rw-ios-per-sec 2000",
        "nvmf_create_transport -t TCP",
        &format!("nvmf_create_subsystem {nqn} -s SN1 -d MN1 -r"),
        &format!("nvmf_subsystem_add_ns {nqn} lvs0/v0 -n 1 -g 11111111111111111111111111111111"),
        &format!("nvmf_subsystem_add_host {nqn} nqn.2016-06.io.spdk:h1"),
        &format!("nvmf_subsystem_add_listener {nqn} -t tcp -a 127.0.0.1 -s {port} -f ipv4"),
    ] {
        target.run(words);
    }
    let saved = target.run("save_config");
    for needed in ["bdev_examine", "bdev_set_qos_limit", "nvmf_subsystem_add_listener"] {
        assert!(saved.contains(needed), "no {needed} in {saved}");
    }
    drop(target);
    let file = dir.path().join("config.json");
    std::fs::write(&file, &saved).unwrap();
    let again = Target::start(dir.path());
    again.feed("load_config", &file);
    assert_eq!(again.run("save_config"), saved);
}

#[test]
#[ignore = "needs SPDK's Python client, named by VDA_SPDK_RPC"]
fn spdk_rpc_drives_the_data_plane() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("disk");
    std::fs::File::create(&file).unwrap().set_len(256 << 20).unwrap();
    let target = Target::start(dir.path());

    assert_eq!(target.json("spdk_get_version")["fields"]["major"], 26);
    target.run("bdev_set_options --no-auto-examine");
    target.run("framework_start_init");
    assert_eq!(target.run("bdev_malloc_create -b m0 64 4096"), "m0");
    assert_eq!(target.run("bdev_null_create null0 64 4096"), "null0");
    assert_eq!(target.run(&format!("bdev_aio_create {} aio0 4096", file.display())), "aio0");
    target.run("bdev_lvol_create_lvstore aio0 lvs0 -c 1048576");
    target.run("bdev_lvol_create -l lvs0 v0 32 -t");
    target.run("bdev_lvol_resize lvs0/v0 48");
    assert_eq!(target.json("bdev_get_bdevs -b lvs0/v0")[0]["num_blocks"], 12288);
    target.run("bdev_set_qos_limit lvs0/v0 --rw-ios-per-sec 2000");
    assert_eq!(target.json("bdev_get_iostat --names m0")["bdevs"][0]["name"], "m0");

    serve(&target);
    let (ok, printed) = target.try_run("bdev_malloc_delete nope");
    assert!(!ok && printed.contains("-19"), "{printed}");
    target.run("bdev_lvol_delete lvs0/v0");
    target.run("bdev_lvol_delete_lvstore -l lvs0");
    target.run("bdev_aio_delete aio0");
    target.run("bdev_null_delete null0");
    target.run("bdev_malloc_delete m0");
    assert_eq!(target.json("bdev_get_bdevs"), serde_json::json!([]));
    target.run("spdk_kill_instance SIGTERM");
}

/// Exports the lvol, attaches it again, and takes all down.
fn serve(target: &Target) {
    let nqn = "nqn.2016-06.io.spdk:s1";
    let host = "nqn.2016-06.io.spdk:h1";
    let reserved = Port::reserve().unwrap();
    let port = reserved.number();
    let listener = format!("{nqn} -t tcp -a 127.0.0.1 -s {port} -f ipv4");
    target.run("nvmf_create_transport -t TCP");
    target.run(&format!("nvmf_create_subsystem {nqn} -s SN1 -d MN1 -r"));
    target.run(&format!("nvmf_subsystem_add_ns {nqn} lvs0/v0 -n 1 -g 11111111111111111111111111111111"));
    target.run(&format!("nvmf_subsystem_add_host {nqn} {host}"));
    target.run(&format!("nvmf_subsystem_add_listener {listener}"));
    let attach =
        format!("bdev_nvme_attach_controller -b n0 -t tcp -a 127.0.0.1 -s {port} -f ipv4 -n {nqn} -q {host}");
    assert_eq!(target.run(&attach), "n0n1");
    assert_eq!(target.json("bdev_nvme_get_controllers")[0]["ctrlrs"][0]["state"], "enabled");
    assert_eq!(target.json(&format!("nvmf_subsystem_get_controllers {nqn}"))[0]["hostnqn"], host);
    target.run(&format!("nvmf_subsystem_listener_set_ana_state {listener} -n inaccessible"));
    let listeners = target.json(&format!("nvmf_subsystem_get_listeners {nqn}"));
    assert_eq!(listeners[0]["ana_states"][0]["ana_state"], "inaccessible");
    target.run("bdev_nvme_detach_controller n0");
    target.run(&format!("nvmf_subsystem_remove_host {nqn} {host}"));
    target.run(&format!("nvmf_subsystem_remove_listener {listener}"));
    target.run(&format!("nvmf_delete_subsystem {nqn}"));
}
