//! Every file of the fuzz corpus, by name: `refused-*` must be refused, `accepted-*` accepted whole, `partial-*`
//! neither. What the fuzzer left there without a name only has to break no promise.

use std::path::Path;

use weir_codec::body::Framing;

use crate::oracle;

#[test]
fn requests_are_accepted_and_refused_as_their_names_say() {
    check("request", oracle::request, 75);
}

#[test]
fn responses_are_accepted_and_refused_as_their_names_say() {
    check("response", oracle::response, 25);
}

#[test]
fn chunked_bodies_are_accepted_and_refused_as_their_names_say() {
    check("chunked", |bytes| oracle::body(Framing::Chunked, bytes).map_err(|error| error.to_string()), 30);
}

fn check(folder: &str, outcome: impl Fn(&[u8]) -> Result<bool, String>, at_least: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(folder);
    let mut seen = 0;
    for file in std::fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).unwrap();
        let outcome = outcome(&bytes);
        let expected = match name.split('-').next() {
            Some("accepted") => outcome == Ok(true),
            Some("partial") => outcome == Ok(false),
            Some("refused") => outcome.is_err(),
            _ => continue,
        };
        assert!(expected, "{name}: {outcome:?}");
        seen += 1;
    }
    assert!(seen >= at_least, "only {seen} files in {}", folder.display());
}
