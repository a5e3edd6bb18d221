use super::*;

#[test]
fn a_reserved_port_is_nobody_elses() {
    let held: Vec<Port> = (0..200).map(|_| Port::reserve().expect("a free port")).collect();
    let numbers: std::collections::BTreeSet<u16> = held.iter().map(Port::number).collect();
    assert_eq!(numbers.len(), held.len());
    assert!(numbers.iter().all(|number| RANGE.contains(number)));
}

#[test]
fn a_port_that_is_listened_on_is_not_handed_out_and_a_dropped_one_is_free() {
    let port = Port::reserve().expect("a free port");
    let number = port.number();
    drop(port);
    let lock = File::create(env::temp_dir().join("vda-ports").join(number.to_string())).expect("a lock file");
    flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("let go when the port was dropped");
}
