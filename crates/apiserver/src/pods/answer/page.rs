//! The page of every other image: says which Deployment, pod and image it stands in for.

use std::fmt::Write;

use http::StatusCode;

use super::{Answer, Arrival, Asked, Stand, respond};

pub(super) fn answer(stand: &Stand, arrival: &Arrival, asked: &Asked) -> Answer {
    stand.log_request(arrival, asked);
    respond(StatusCode::OK, "text/html; charset=utf-8", page(stand, arrival))
}

fn page(stand: &Stand, arrival: &Arrival) -> String {
    let hue = hue(&stand.namespace, &stand.made_by.name);
    let title = escape(&stand.made_by.name);
    let rows = [
        (stand.made_by.kind.as_str(), stand.made_by.name.as_str()),
        ("Pod", stand.pod.as_str()),
        ("Namespace", stand.namespace.as_str()),
        ("Container", stand.container.as_str()),
        ("Image", stand.image.as_str()),
    ];
    let mut table = String::new();
    // A pod that nothing made is its own maker, and told once.
    let skip = usize::from(stand.made_by.kind == "Pod");
    for (name, value) in rows.into_iter().skip(skip) {
        // Writing to a String never fails.
        let _ = writeln!(table, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
    }
    let port = arrival.port;
    format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; font: 1.1rem/1.6 system-ui, sans-serif;
  color: #fff; background: hsl({hue} 60% 32%) }}
main {{ padding: 2rem; max-width: 44rem }}
h1 {{ margin: 0 0 1rem; font-size: clamp(2.5rem, 10vw, 6rem); line-height: 1; overflow-wrap: anywhere }}
dl {{ display: grid; grid-template-columns: auto 1fr; gap: 0 1.5rem; margin: 0 }}
dt {{ opacity: .75 }}
dd {{ margin: 0; overflow-wrap: anywhere }}
p {{ opacity: .85 }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<dl>
{table}</dl>
<p>Weir answers here on port {port} in place of the image, which does not run: there are no containers in this
sandbox.</p>
</main>
</body>
</html>
"#
    )
}

/// Names that differ little get colours that differ much: the golden angle times a hash.
fn hue(namespace: &str, name: &str) -> u32 {
    let bytes = namespace.bytes().chain([b'/']).chain(name.bytes());
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash % 360).wrapping_mul(137) % 360
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deployments_of_a_guide_look_different() {
        let distance =
            (i64::from(hue("default", "app-v1")) - i64::from(hue("default", "app-v2"))).rem_euclid(360);
        assert!((40..=320).contains(&distance), "hues are {distance} degrees apart");
    }

    #[test]
    fn names_never_become_markup() {
        assert_eq!(escape("<b>&\"'"), "&lt;b&gt;&amp;&quot;&#39;");
    }
}
