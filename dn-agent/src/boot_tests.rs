use super::*;

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("boot_id");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

#[test]
fn the_first_half_of_the_uuid_names_the_boot() {
    let (_dir, path) = file("6c1b4a3e-0b6f-4c55-9d5c-3f1f1c6e2a10\n");
    assert_eq!(read(&path).unwrap().to_string(), "6c1b4a3e0b6f4c55");
}

#[test]
fn linux_tells_it_and_tells_the_same_again() {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    assert_eq!(read(path).unwrap(), read(path).unwrap());
}

#[test]
fn what_is_no_boot_id_is_refused_naming_the_file_and_what_is_expected() {
    for text in ["", "\n", "7", "6c1b4a3e-0b6f-4c55-9d5c", "00000000-0000-0000-0000-000000000000\n"] {
        let (_dir, path) = file(text);
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains("a UUID is expected"), "{error}");
    }
    let missing = Path::new("/nowhere/boot_id");
    let error = read(missing).unwrap_err().to_string();
    assert!(error.contains("/nowhere/boot_id") && error.contains("a UUID is expected"), "{error}");
}
