use super::*;

const COLUMNS: &[Column<(&str, Tone)>] = &[
    col("NAME", |row| row.0.into()),
    col("STATUS", |row| Cell::toned(format!("{:?}", row.1), row.1)),
    wide("EXTRA", |_| "".into()),
];

#[test]
fn colour_does_not_change_the_alignment() {
    let rows = [("größer", Tone::Good), ("x", Tone::Bad)];
    let plain = render(COLUMNS, &rows, true, false);
    assert_eq!(plain, "NAME    STATUS  EXTRA\ngrößer  Good    <none>\nx       Bad     <none>\n");
    let coloured = render(COLUMNS, &rows, true, true);
    assert!(coloured.contains("\x1b[32mGood\x1b[0m    <none>"), "{coloured:?}");
    assert_eq!(coloured.replace("\x1b[32m", "").replace("\x1b[31m", "").replace("\x1b[0m", ""), plain);
}

#[test]
fn the_header_is_there_without_rows_and_wide_columns_only_when_wide() {
    assert_eq!(render(COLUMNS, &[], false, true), "NAME  STATUS\n");
}
