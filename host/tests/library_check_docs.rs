//! `docs/src/vendors/check.md` has tables that are made from the code. Run with `UPDATE_DOCS=1` to renew them.

use std::path::Path;

use serde_json::Value;
use tcw_abi::testing::conformance::{Need, cases, plugin_cases, purpose};
use tcw_host::check::file;

fn keys(schema: &Value, place: &str, table: &mut String) {
    for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
        let about = inner["description"].as_str().unwrap_or_default();
        if !about.is_empty() {
            *table += &format!("| `{place}{key}` | {about} |\n");
        }
        keys(inner, &format!("{place}{key}."), table);
        keys(
            &inner["additionalProperties"],
            &format!("{place}{key}.NAME."),
            table,
        );
        keys(&inner["items"], &format!("{place}{key}[]."), table);
    }
}

fn needs(needs: &[Need]) -> String {
    let words: Vec<String> = needs
        .iter()
        .map(|need| match need {
            Need::Feature(name) => format!("feature `{name}`"),
            Need::Payload(purpose) => format!("`{}`", purpose.name),
            Need::Scripts => "`script`".to_owned(),
            Need::ShellScripts => "`shells.command` or `script`".to_owned(),
            Need::DefaultShell => "`shells` or `script`".to_owned(),
        })
        .collect();
    words.join(", ")
}

fn replaced(text: &str, name: &str, table: &str) -> String {
    let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
    let (before, rest) = text.split_once(&start).expect("the table's start is marked");
    let (_, after) = rest.split_once(&end).expect("the table's end is marked");
    format!("{before}{start}\n{table}\n{end}{after}")
}

#[test]
fn the_manual_lists_every_key_purpose_and_case() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/vendors/check.md");
    let text = std::fs::read_to_string(&path).unwrap();

    let mut table = String::from("| key | meaning |\n|---|---|\n");
    keys(file::schema(), "", &mut table);
    let wanted = replaced(&text, "keys", &table);

    let mut table = String::from("| purpose | what the task has to do |\n|---|---|\n");
    for purpose in purpose::ALL {
        table += &format!("| `{}` | {} |\n", purpose.name, purpose.about);
    }
    let wanted = replaced(&wanted, "purposes", &table);

    let mut table = String::from("| case | what has to happen | needs |\n|---|---|---|\n");
    for case in cases() {
        table += &format!("| `{}` | {} | {} |\n", case.name, case.about, needs(case.needs));
    }
    let wanted = replaced(&wanted, "cases", &table);

    let mut table = String::from("| case | what has to happen |\n|---|---|\n");
    for case in plugin_cases() {
        table += &format!("| `{}` | {} |\n", case.name, case.about);
    }
    let wanted = replaced(&wanted, "plugin cases", &table);

    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    } else {
        assert!(
            text == wanted,
            "run the tests once with UPDATE_DOCS=1 to renew docs/src/vendors/check.md"
        );
    }
}
