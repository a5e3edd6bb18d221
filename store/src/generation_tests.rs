use super::*;

fn value(mark: u64, origin: &str) -> Vec<u8> {
    [marked(mark), with_origin(origin)].concat()
}

#[test]
fn the_origin_is_found_again_and_the_whole_decodes_as_nothing() {
    for origin in ["req-1", "x", &"y".repeat(64)] {
        let value = value(u64::MAX, origin);
        assert_eq!(origin_of(&value), Some(origin));
        crate::store::decode::<()>(&value).unwrap();
    }
}

#[test]
fn a_value_without_an_origin_has_none() {
    for value in [Vec::new(), value(7, ""), value(7, &"z".repeat(200)), vec![0; 9], vec![0xff; 12]] {
        assert_eq!(origin_of(&value), None, "{value:?}");
    }
}
