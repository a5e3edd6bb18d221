//! Requests recorded from SPDK, replayed: every field of every answer has to be the same.
//!
//! Runs against `vda_dataplane`, or with `VDA_SPDK_TGT=/path/to/spdk_tgt` against SPDK itself; with `VDA_SPDK_TARGETS=cn1` as well, SPDK
//! plays only the controller node (`dn1,dn2`: only the disk nodes), and the other side is the data plane. What the data plane answers
//! otherwise is listed, with the reason, in `docs/spdk-compatibility.md`, and that table is read here: a difference that is not in
//! it fails, and so does a row that no longer happens. SPDK itself gets no exceptions.
//!
//! A scenario is a file of lines, see `conformance/scenario.rs`.

#![allow(clippy::unwrap_used)]

#[path = "conformance/compare.rs"]
mod compare;
#[path = "conformance/exceptions.rs"]
mod exceptions;
#[path = "conformance/host.rs"]
mod host;
#[path = "conformance/nvme.rs"]
mod nvme;
#[path = "conformance/scenario.rs"]
mod scenario;
#[path = "conformance/target.rs"]
mod target;

/// The JSON-RPC rules: framing, batches, notifications, malformed requests.
#[test]
fn protocol() {
    scenario::run("protocol", include_str!("conformance/protocol.jsonl"));
}

/// Every method with a parameter too many, a required one too few, and each parameter with values of a wrong type or range.
#[test]
fn bad_parameters() {
    scenario::run("bad_parameters", include_str!("conformance/bad_parameters.jsonl"));
}

/// What a disk node needs: malloc and aio bdevs, lvstores, lvols, a subsystem; with every refusal.
#[test]
fn disk_node() {
    scenario::run("disk_node", include_str!("conformance/disk_node.jsonl"));
}

/// malloc, null, aio and uring: every refusal, resizes and rescans, what is shown of them.
#[test]
fn disks() {
    scenario::run("disks", include_str!("conformance/disks.jsonl"));
}

/// delay and error: bases that are not there yet, that go and come back; what is injected, as a host meets it.
#[test]
fn faults() {
    scenario::run("faults", include_str!("conformance/faults.jsonl"));
}

/// I/O counters, latency histograms, QoS limits.
#[test]
fn measures() {
    scenario::run("measures", include_str!("conformance/measures.jsonl"));
}

/// Subsystems without hosts: names, controller id ranges, namespaces, listeners and their ANA states, host lists, referrals; with every refusal.
#[test]
fn subsystems() {
    scenario::run("subsystems", include_str!("conformance/subsystems.jsonl"));
}

/// What is shown of a connected host; a fence that waits, and tells when it waits in vain; a namespace whose removal waits for a write.
#[test]
fn fencing() {
    scenario::run("fencing", include_str!("conformance/fencing.jsonl"));
}

/// The timers of bdev_nvme, by the order of what they do: I/O fails while its controller is still there, then that goes; or I/O waits for the other side,
/// which comes back. Detaching with I/O under way.
#[test]
fn timers() {
    scenario::run("timers", include_str!("conformance/timers.jsonl"));
}

/// Start-up options, and an lvstore that is found again after the target was killed, when it is asked to examine.
#[test]
fn examine() {
    scenario::run("examine", include_str!("conformance/examine.jsonl"));
}

/// What a controller node needs: attaching to two disk nodes, raid1, lvstore, export.
#[test]
fn controller_node() {
    scenario::run("controller_node", include_str!("conformance/controller_node.jsonl"));
}

/// bdev_nvme with two paths: refused options and attachments, io paths, policies, ANA states, reset, disable, loss and return of a path, detaching.
#[test]
fn multipath() {
    scenario::run("multipath", include_str!("conformance/multipath.jsonl"));
}

/// raid: refusals, missing and removed members.
#[test]
fn raid() {
    scenario::run("raid", include_str!("conformance/raid.jsonl"));
}

/// A raid1 with a slot more than members: emptied, filled and rebuilt under a live lvstore; members replaced, lost and deleted.
#[test]
fn spare_slot() {
    scenario::run("spare_slot", include_str!("conformance/spare_slot.jsonl"));
}

/// A raid1 member is replaced by one that is too small, by a bigger one, and by the first again, under an lvstore that a host writes to.
#[test]
fn replacement() {
    scenario::run("replacement", include_str!("conformance/replacement.jsonl"));
}

/// A raid1 follows its members when they grow, and the lvstore and lvol on it can be grown.
#[test]
fn grow_raid1() {
    scenario::run("grow_raid1", include_str!("conformance/grow_raid1.jsonl"));
}

/// A raid0 follows its members when they grow.
#[test]
fn grow_raid0() {
    scenario::run("grow_raid0", include_str!("conformance/grow_raid0.jsonl"));
}

/// A concat keeps its size when its members grow.
#[test]
fn grow_concat() {
    scenario::run("grow_concat", include_str!("conformance/grow_concat.jsonl"));
}

/// Snapshots, clones, external snapshots, parents, shallow copies, and what is deleted with them; with every refusal.
#[test]
fn lvol_family() {
    scenario::run("lvol_family", include_str!("conformance/lvol_family.jsonl"));
}

/// Clones of a bdev that is missing after a restart, and comes.
#[test]
fn lvol_external() {
    scenario::run("lvol_external", include_str!("conformance/lvol_external.jsonl"));
}

/// A bdev that somebody may write is no external snapshot.
#[test]
fn lvol_writer() {
    scenario::run("lvol_writer", include_str!("conformance/lvol_writer.jsonl"));
}

/// Reservations: every command in good and bad orders, under every type, by three hosts; what each of them may do meanwhile.
#[test]
fn reservations() {
    scenario::run("reservations", include_str!("conformance/reservations.jsonl"));
}

/// Preemption, and what hosts are told: events, the notification log, the mask.
#[test]
fn reservation_notices() {
    scenario::run("reservation_notices", include_str!("conformance/reservation_notices.jsonl"));
}

/// Reservations and registrations after the target was killed, and the file that they are in.
#[test]
fn reservation_persistence() {
    scenario::run("reservation_persistence", include_str!("conformance/reservation_persistence.jsonl"));
}

/// Preempt and Abort is answered when what the preempted host had begun has ended.
#[test]
fn preempt_and_abort() {
    scenario::run("preempt_and_abort", include_str!("conformance/preempt_and_abort.jsonl"));
}

/// Namespaces that only some hosts see.
#[test]
fn masking() {
    scenario::run("masking", include_str!("conformance/masking.jsonl"));
}

/// What is shown of shallow copies and rebuilds that are held on their way, fail or are ended; clones of snapshots of clones of a bdev.
#[test]
fn progress() {
    scenario::run("progress", include_str!("conformance/progress.jsonl"));
}

/// Fused Compare and Write: both halves in good and bad orders, what they may not be, and what each of them ends with.
#[test]
fn fused() {
    scenario::run("fused", include_str!("conformance/fused.jsonl"));
}
