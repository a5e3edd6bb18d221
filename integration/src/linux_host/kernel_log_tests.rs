use super::*;

const LOG: &str = "\
kern  :info  : [   10.000000] nvme nvme0: new ctrl: NQN \"nqn.x\", addr 10.231.0.1:4420
kern  :notice: [   10.100000] XFS (nvme0n2): Mounting V5 Filesystem
kern  :warn  : [   11.000000] nvme nvme0: starting error recovery
kern  :warn  : [   11.100000] block nvme0n1: no usable path - requeuing I/O
";

#[test]
fn a_cut_connection_is_excused_only_if_one_was_cut() {
    assert_eq!(complaints(LOG, Faults::Connections), Vec::<&str>::new());
    let refused: Vec<_> = LOG.lines().skip(2).collect();
    assert_eq!(complaints(LOG, Faults::NoUsablePath), refused[..1]);
    assert_eq!(complaints(LOG, Faults::None), refused);
}

#[test]
fn errors_and_traces_are_never_excused() {
    for line in [
        "kern  :err   : [   12.000000] I/O error, dev nvme0n1, sector 8 op 0x1:(WRITE) flags 0x0 phys_seg 1 prio class 2",
        "kern  :err   : [   12.000000] Buffer I/O error on dev nvme0n1, logical block 0, lost async page write",
        "kern  :err   : [   12.000000] nvme0n1: Write(0x1) @ LBA 8, 8 blocks, Data Transfer Error (sct 0x0 / sc 0x4)",
        "kern  :crit  : [   12.000000] EXT4-fs error (device nvme0n1): ext4_find_entry:1463",
        "kern  :alert : [   12.000000] XFS (nvme0n2): metadata I/O error in \"xlog_iodone\" at daddr 0x2 len 64 error 5",
        "kern  :warn  : [   12.000000] WARNING: CPU: 0 PID: 1 at drivers/nvme/host/tcp.c:1",
        "kern  :err   : [   12.000000] INFO: task fio:99 blocked for more than 120 seconds.",
        "a line that is none of the kernel's",
    ] {
        assert_eq!(complaints(line, Faults::Connections), [line]);
    }
}
