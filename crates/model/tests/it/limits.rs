//! The page of limits is what the table says. `WEIR_GOLDEN=write` writes it anew.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use weir_model::limits::{Limits, Side, Unit};

#[test]
fn the_page_of_limits_says_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/limits.md");
    let page = page();
    if std::env::var("WEIR_GOLDEN").is_ok_and(|value| value == "write") {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/limits.md is not what the table says; write it with WEIR_GOLDEN=write");
}

fn page() -> String {
    let mut page = "# Limits and time-outs of the data plane

Every bound that the data plane holds, with its default, what may be set, and the field that sets it: below `spec` of a
`GatewayParameters` for what faces clients, of a `BackendPolicy` for what faces endpoints ([parameters.md](parameters.md)). The table
is made from `model::limits`; a limit that is not here does not exist. A duration whose range begins with 0 says what `0s` means; the
others refuse it.

| limit | default | range | `GatewayParameters` | `BackendPolicy` | what it bounds | where the number comes from |
|---|---|---|---|---|---|---|
"
    .to_owned();
    for row in Limits::table() {
        let default = in_words(row.default, row.unit);
        let cell = |text: &str| text.replace('|', "\\|");
        let range = format!("{} to {}", in_words(row.least, row.unit), in_words(row.most, row.unit));
        let [gateway, backend] =
            Side::ALL.map(|side| row.field(side).map_or(String::new(), |path| format!("`{path}`")));
        let (meaning, source) = (cell(row.meaning), cell(row.source));
        writeln!(
            page,
            "| `{}` | {default} | {range} | {gateway} | {backend} | {meaning} | {source} |",
            row.name
        )
        .unwrap();
    }
    page
}

fn in_words(number: u64, unit: Unit) -> String {
    match unit {
        _ if number == 0 => "0".to_owned(),
        Unit::Bytes if number.is_multiple_of(1 << 40) => format!("{} TiB", number >> 40),
        Unit::Bytes if number.is_multiple_of(1 << 30) => format!("{} GiB", number >> 30),
        Unit::Bytes if number.is_multiple_of(1 << 20) => format!("{} MiB", number >> 20),
        Unit::Bytes if number.is_multiple_of(1 << 10) => format!("{} KiB", number >> 10),
        Unit::Bytes => format!("{number} bytes"),
        Unit::Count => number.to_string(),
        Unit::Milliseconds if number.is_multiple_of(3_600_000) => format!("{} h", number / 3_600_000),
        Unit::Milliseconds if number.is_multiple_of(60_000) => format!("{} min", number / 60_000),
        Unit::Milliseconds if number.is_multiple_of(1_000) => format!("{} s", number / 1_000),
        Unit::Milliseconds => format!("{number} ms"),
    }
}
