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
    let dir = lock_dir(&env::temp_dir()).expect("writable");
    let lock = File::create(dir.join(number.to_string())).expect("a lock file");
    flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("let go when the port was dropped");
}

#[test]
fn where_the_shared_directory_cannot_be_written_there_is_one_of_ones_own() {
    let base = env::temp_dir().join(format!("vda-ports-test-{}", std::process::id()));
    fs::create_dir_all(&base).expect("a directory");
    assert_eq!(lock_dir(&base).expect("writable"), base.join("vda-ports"));
    fs::remove_dir(base.join("vda-ports")).expect("made by the first call");
    File::create(base.join("vda-ports")).expect("a file in its place");
    let own = lock_dir(&base).expect("writable");
    assert!(own.is_dir() && own.to_string_lossy().contains("vda-ports-"), "{own:?}");
    fs::remove_dir_all(&base).expect("removed");
}
