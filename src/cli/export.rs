//! `export`: the numbers that are known, as `import` takes them.

use std::{fs, io::Write, path::PathBuf};

use clap::{Arg, ArgMatches, Command, value_parser};

#[cfg(feature = "etcd")]
use tokio::runtime;

use super::{
    Verb, given,
    numbers::{format, format_option, is_pipe, write},
    print, serve,
};
#[cfg(feature = "etcd")]
use crate::store::Etcd;
use crate::{
    state::{Observation, Record},
    store::Sqlite,
};

pub(super) const VERB: Verb = Verb { command, run };

fn command() -> Command {
    Command::new("export")
        .about("write the numbers that are known, with their names and limits")
        .after_help(
            "It reads the storage of an exporter that may run.\n\n\
             Example:\n  whatsapp-quality-exporter export numbers.csv\n\n\
             The exit status is 0 where all were written, otherwise 1.",
        )
        .arg(
            Arg::new("FILE")
                .help("the file; - is standard output")
                .default_value("-")
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(format_option())
        .args(serve::storage_place_flags())
}

fn run(matches: &ArgMatches, output: &mut dyn Write) -> Result<(), String> {
    let Some(path) = given::<PathBuf>(matches, "FILE") else {
        return Ok(());
    };
    let format = format(matches, path);
    let mut numbers = Vec::new();
    let read = read(matches, &mut |record| {
        if let Record::Number(key, number) = record {
            numbers.push(Observation {
                key,
                name: number.name.as_deref().cloned(),
                limit: number.limit.value(),
            });
        }
    });
    read?;
    numbers.sort_by(|number, other| number.key.cmp(&other.key));
    let cannot = |error: String| format!("cannot write {}: {error}", path.display());
    if is_pipe(path) {
        return write(&numbers, format, output).map_err(cannot);
    }
    let mut text = Vec::new();
    write(&numbers, format, &mut text).map_err(cannot)?;
    fs::write(path, text).map_err(|error| cannot(error.to_string()))?;
    print(output, &format!("{} numbers exported\n", numbers.len()))
}

fn read(matches: &ArgMatches, each: &mut dyn FnMut(Record)) -> Result<(), String> {
    #[cfg(feature = "etcd")]
    if let Some(options) = serve::etcd::options(matches) {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let read = runtime.block_on(Etcd::read(options, each));
        return read.map_err(|error| error.to_string());
    }
    let (folder, _) = serve::storage(matches);
    Sqlite::read(&folder, each).map_err(|error| error.to_string())
}
