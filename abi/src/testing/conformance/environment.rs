//! Environment variables: classes, conflicts, names and values.

use super::{Bench, Failure, Need, case_list, purpose};
use crate::engine::VariableClass::{self, Default, Forced, Payload};
use crate::engine::feature;
use crate::error::ErrorKind;

const VARIABLES: Need = Need::Feature(feature::ENVIRONMENT);
const PRINTS: Need = Need::Payload(&purpose::PRINT_VARIABLE);
const SILENT: Need = Need::Payload(&purpose::SILENT);

case_list! {
    "environment/print", "The task sees a variable of each class", [VARIABLES, PRINTS], print;
    "environment/precedence", "Of several classes the highest wins, in whatever order they are set",
        [VARIABLES, PRINTS], precedence;
    "environment/conflict", "A second value within one class is a NamingConflict, and the first stays",
        [VARIABLES, PRINTS], conflict;
    "environment/names", "A name that is empty or has `=` or NUL in it is MalformedPayload",
        [VARIABLES, SILENT], names;
    "environment/values", "Values with newlines, `=`, quotes, UTF-8 and nothing at all arrive as they are",
        [VARIABLES, PRINTS], values;
    "environment/nul", "A value with NUL in it, which no program can be given, is MalformedPayload",
        [VARIABLES, SILENT], nul;
    "environment/not-inherited", "The task does not see the variables of the worker's own process",
        [PRINTS], not_inherited;
    "environment/after-start", "A variable that is set after the start is a ContractViolation",
        [VARIABLES, SILENT], after_start;
}

const NAME: &str = "TCW_CHECK";

/// Set by whoever runs the cases, so that there is something to inherit.
const OF_THE_WORKER: &str = "TCW_CHECK_INHERITED";

/// Runs a task that prints the variable, and compares.
async fn prints(bench: &Bench, variables: &[(VariableClass, &str)], expected: &str) -> Result<(), Failure> {
    let built = bench
        .build_for(&purpose::PRINT_VARIABLE, &[("variable", NAME)])
        .await?;
    for (class, value) in variables {
        built.set(NAME, value, *class).await?;
    }
    let ended = built.start().await?.wait().await?;
    ended.expect_success(true)?;
    let output = ended.finish_text().await?;
    Failure::unless_equal(
        "what the task prints as the variable's value",
        output,
        format!("{expected}\n"),
    )
}

async fn print(bench: &Bench) -> Result<(), Failure> {
    for class in [Default, Payload, Forced] {
        prints(bench, &[(class, "Hello World")], "Hello World").await?;
    }
    Ok(())
}

async fn precedence(bench: &Bench) -> Result<(), Failure> {
    let orders: [(&[(VariableClass, &str)], &str); 5] = [
        (&[(Default, "low"), (Payload, "middle"), (Forced, "high")], "high"),
        (&[(Forced, "high"), (Payload, "middle"), (Default, "low")], "high"),
        (&[(Payload, "middle"), (Forced, "high")], "high"),
        (&[(Default, "low"), (Payload, "middle")], "middle"),
        (&[(Payload, "middle"), (Default, "low")], "middle"),
    ];
    for (variables, expected) in orders {
        prints(bench, variables, expected)
            .await
            .map_err(|failure| failure.context(format!("set in the order {variables:?}")))?;
    }
    Ok(())
}

async fn conflict(bench: &Bench) -> Result<(), Failure> {
    for class in [Default, Payload, Forced] {
        let built = bench
            .build_for(&purpose::PRINT_VARIABLE, &[("variable", NAME)])
            .await?;
        built.set(NAME, "first", class).await?;
        let call = built
            .builder
            .set_environment_variable(NAME.into(), "second".into(), class);
        let what = format!("a second value within the class {class:?}");
        bench.refused(&what, &[ErrorKind::NamingConflict], call).await?;
        let ended = built.start().await?.wait().await?;
        ended.expect_success(true)?;
        let output = ended.finish_text().await?;
        Failure::unless_equal("the value after the conflict", output.as_str(), "first\n")?;
    }
    Ok(())
}

async fn names(bench: &Bench) -> Result<(), Failure> {
    let built = bench.build_for(&purpose::SILENT, &[]).await?;
    for name in ["", "=", "A=B", "A\0B"] {
        let call = built
            .builder
            .set_environment_variable(name.into(), "value".into(), Payload);
        let what = format!("a variable with the name {name:?}");
        bench.refused(&what, &[ErrorKind::MalformedPayload], call).await?;
    }
    built.discard().await
}

async fn values(bench: &Bench) -> Result<(), Failure> {
    let long = "long ".repeat(2000);
    let values = [
        "two\nlines",
        "=a=b=",
        "gr\u{fc}\u{df}e \u{1f980}",
        "  $HOME `id` \"quoted\" 'too' \\ ",
        "",
        &long,
    ];
    for value in values {
        prints(bench, &[(Payload, value)], value).await?;
    }
    Ok(())
}

async fn nul(bench: &Bench) -> Result<(), Failure> {
    let built = bench.build_for(&purpose::SILENT, &[]).await?;
    let call = built
        .builder
        .set_environment_variable(NAME.into(), "a\0b".into(), Payload);
    bench
        .refused("a value with NUL in it", &[ErrorKind::MalformedPayload], call)
        .await?;
    built.discard().await
}

async fn not_inherited(bench: &Bench) -> Result<(), Failure> {
    if std::env::var_os(OF_THE_WORKER).is_none() {
        return Err(Failure::new(format!(
            "this case needs the variable {OF_THE_WORKER} in the process that runs it"
        )));
    }
    let running = bench
        .start(&purpose::PRINT_VARIABLE, &[("variable", OF_THE_WORKER)])
        .await?;
    let ended = running.wait().await?;
    let success = ended.report.success;
    let output = ended.finish_text().await?;
    Failure::unless(!success, || {
        format!("the task sees {OF_THE_WORKER}, a variable of the worker's process: {output:?}")
    })
}

async fn after_start(bench: &Bench) -> Result<(), Failure> {
    let running = bench.start(&purpose::SILENT, &[]).await?;
    let call = running
        .builder
        .set_environment_variable(NAME.into(), "late".into(), Payload);
    bench
        .refused(
            "a variable after the start",
            &[ErrorKind::ContractViolation],
            call,
        )
        .await?;
    running.wait().await?.finish().await.map(drop)
}
