//! The load generator: starts the real binary on a temporary folder, drives scenarios on loopback, reads every acknowledged id back, and prints
//! figures. See `loadtest/README.md`.
//!
//! ```text
//! cargo run --release --example loadtest -- NAME… [--seconds N | --minutes N] [--entries N] [--server PATH] [--save]
//! ```
//!
//! A name is that of a file in `loadtest/scenarios/`, or one of [`BUILT_IN`], which do more than a file can say.

mod answers;
mod arrivals;
mod blackhole;
mod bodies;
mod clients;
mod distributed;
mod faults;
mod holes;
mod http;
mod ids;
mod measure;
mod phases;
mod process;
mod report;
mod scenario;
mod server;
mod site;
mod soak;

use anyhow::Context;
use report::say;
use scenario::Scenario;
use std::path::Path;

/// Scenarios that are code.
const BUILT_IN: [&str; 6] = ["answers", "soak", "distributed", "pipeline", "thin", "outage"];
/// What a phase takes beside the time in which requests are due: tenants, what was not yet stored, reading back. Seconds, for an estimate.
const AROUND: f64 = 8.0;

struct Options {
    names: Vec<String>,
    /// Instead of what the scenario says.
    length: Option<u64>,
    /// Of scenarios that are code.
    seconds: u64,
    server: String,
    /// How many the `answers` scenario fills in.
    entries: u64,
    save: bool,
    /// The command that repeats it.
    command: String,
}

fn options(args: impl Iterator<Item = String>) -> anyhow::Result<Options> {
    let (mut args, mut shown) = (args, Vec::new());
    let mut options = Options {
        names: Vec::new(),
        length: None,
        seconds: 15,
        server: "target/release/sluice".into(),
        entries: 10_000_000,
        save: false,
        command: String::new(),
    };
    while let Some(name) = args.next() {
        if !name.starts_with("--") {
            options.names.push(name);
            continue;
        }
        if name == "--save" {
            options.save = true;
            continue;
        }
        let value = args.next().with_context(|| format!("`{name}` needs a value"))?;
        match name.as_str() {
            "--seconds" => options.length = Some(value.parse()?),
            "--minutes" => options.length = Some((60.0 * value.parse::<f64>()?) as u64),
            "--server" => options.server.clone_from(&value),
            "--entries" => options.entries = value.parse()?,
            _ => anyhow::bail!("unknown option `{name}`; known are --seconds, --minutes, --entries, --server and --save"),
        }
        if name != "--server" {
            shown.extend([name, value]);
        }
    }
    anyhow::ensure!(
        !options.names.is_empty(),
        "usage: loadtest NAME… [--seconds N | --minutes N] [--entries N] [--server PATH] [--save]"
    );
    options.seconds = options.length.unwrap_or(options.seconds);
    options.command = shown.join(" ");
    Ok(options)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = &args[..]
        && first == "blackhole"
    {
        return blackhole::run(rest).await;
    }
    let options = options(args.into_iter())?;
    let mut scenarios = Vec::new();
    let mut seconds = 0.0;
    for name in &options.names {
        let file = if BUILT_IN.contains(&name.as_str()) {
            None
        } else {
            Some(read(name, &options)?)
        };
        seconds += file.as_ref().map_or(options.seconds as f64, |file| {
            file.seconds() + AROUND * f64::from(file.rounds) * file.phase.len() as f64
        });
        scenarios.push((name, file));
    }
    println!("{} scenarios, about {:.0} minutes\n", scenarios.len(), (seconds / 60.0).ceil());
    for (name, file) in scenarios {
        let command = match options.command.as_str() {
            "" => format!("loadtest/run.sh {name}"),
            more => format!("ARGS=\"{more}\" loadtest/run.sh {name}"),
        };
        report::begin(name, file.as_ref().map_or("", |file| file.what.trim()), &command);
        match &file {
            Some(file) => {
                let figures = phases::run(&options.server, file).await?;
                say(measure::raw()?);
                say("");
                figures.say(&file.target);
            }
            None => {
                say("```text");
                built_in(name, &options).await?;
                say(measure::raw()?);
                say("```");
            }
        }
        say(format!("\nload after it: {}", report::load()));
        if options.save {
            println!("saved as {}", report::save(name)?.display());
        }
        println!();
    }
    Ok(())
}

fn read(name: &str, options: &Options) -> anyhow::Result<Scenario> {
    let path = Path::new("loadtest/scenarios").join(format!("{name}.toml"));
    anyhow::ensure!(
        path.exists(),
        "there is no scenario `{name}`: neither in loadtest/scenarios nor one of {BUILT_IN:?}"
    );
    let mut scenario = Scenario::read(&path)?;
    if let Some(seconds) = options.length {
        scenario
            .set_seconds(seconds as f64)
            .with_context(|| format!("`{name}` with {seconds} seconds"))?;
    }
    Ok(scenario)
}

async fn built_in(name: &str, options: &Options) -> anyhow::Result<()> {
    match name {
        "answers" => answers::run(options).await,
        "soak" => soak::run(options).await,
        "distributed" => distributed::bulk(&options.server, options.seconds).await,
        "pipeline" => distributed::pipeline(&options.server, options.seconds).await,
        "thin" => distributed::thin(&options.server, options.seconds).await,
        "outage" => distributed::outage(&options.server, options.seconds).await,
        other => anyhow::bail!("`{other}` is not one of {BUILT_IN:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &str) -> anyhow::Result<Options> {
        options(args.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn names_and_options_may_be_mixed_and_nothing_unknown_is_passed_over() {
        let some = parse("bulk --server x/y single --seconds 7 --save").expect("right");
        assert_eq!(some.names, ["bulk", "single"]);
        assert_eq!((some.length, some.seconds, some.save, some.server.as_str()), (Some(7), 7, true, "x/y"));
        assert_eq!(some.command, "--seconds 7", "what repeats it names no path of this machine");
        assert_eq!(parse("soak --minutes 0.5").expect("right").seconds, 30);
        assert_eq!(parse("answers").expect("right").length, None);
        for wrong in ["", "--seconds 7", "bulk --seconds", "bulk --seconds x", "bulk --fast 1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(read("../scenarios/none", &parse("x").expect("right")).is_err());
    }
}
