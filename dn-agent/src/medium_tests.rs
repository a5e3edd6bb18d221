use super::*;

#[test]
fn every_mark_is_recognised_and_zeroes_are_not() {
    for (what, offset, mark) in SIGNATURES {
        let mut head = vec![0; HEAD];
        assert!(offset + mark.len() <= HEAD, "{what}");
        head[offset..offset + mark.len()].copy_from_slice(mark);
        assert_eq!(signature(&head), Some(what));
        assert_eq!(signature(&head[..offset + mark.len() - 1]), None, "half a mark is none");
    }
    assert_eq!(signature(&vec![0; HEAD]), None);
    assert_eq!(signature(&[]), None);
}

#[tokio::test]
async fn a_medium_with_something_on_it_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    let name = path.to_str().unwrap();
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    inspect(name).await.unwrap();

    let mut used = vec![0; 1 << 20];
    used[..4].copy_from_slice(b"XFSB");
    std::fs::write(&path, &used).unwrap();
    let refused = inspect(name).await.unwrap_err();
    assert!(refused.message.contains("XFS") && refused.message.contains("wipefs"), "{refused:?}");
    assert_eq!(std::fs::read(&path).unwrap(), used, "nothing was written");

    std::fs::remove_file(&path).unwrap();
    assert!(inspect(name).await.unwrap_err().message.contains("cannot be looked at"));
}
