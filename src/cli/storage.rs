//! `storage copy`: all that is known, from one storage into another.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use clap::{ArgMatches, Command, builder::ValueParser};
use tokio::runtime;

use super::{Verb, given, option, print, progress::Progress, serve::etcd};
use crate::{
    config::EtcdOptions,
    state::{Batch, Record},
    store::{Etcd, Sqlite, StoreError},
};

pub(super) const VERB: Verb = Verb { command, run };

const COPY: &str = "copy";
const FROM: &str = "from";
const TO: &str = "to";

/// A storage.
#[derive(Clone, Debug)]
enum Place {
    Sqlite(PathBuf),
    /// Members and a prefix.
    Etcd(Vec<String>, String),
}

fn command() -> Command {
    let place = |name, help| {
        option(name, "URL", help)
            .required(true)
            .value_parser(ValueParser::new(Place::parse))
    };
    let copy = Command::new(COPY)
        .about("copy all that is known from one storage into another, which must be empty")
        .after_help(
            "A URL is sqlite:FOLDER or etcd://HOST:PORT,HOST:PORT/PREFIX. No exporter may use the \
             storage that is copied into.\n\n\
             Example:\n  whatsapp-quality-exporter storage copy --from sqlite:data \
             --to etcd://etcd-1:2379,etcd-2:2379\n\n\
             The exit status is 0 where all was copied, otherwise 1.",
        )
        .arg(place(FROM, "the storage that is read"))
        .arg(place(TO, "the storage that is written"))
        .args(etcd::connection_flags());
    Command::new("storage")
        .about("work on the storage")
        .subcommand_required(true)
        .subcommand(copy)
}

fn run(matches: &ArgMatches, output: &mut dyn Write) -> Result<(), String> {
    let Some(matches) = matches.subcommand_matches(COPY) else {
        return Ok(());
    };
    let (Some(from), Some(to)) = (given::<Place>(matches, FROM), given::<Place>(matches, TO))
    else {
        return Ok(());
    };
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let progress = Progress::new();
    let mut records = Vec::new();
    progress.last_step("reading");
    let mut take = |record| records.push(record);
    let read = match from {
        Place::Sqlite(folder) => Sqlite::read(folder, &mut take),
        Place::Etcd(members, prefix) => {
            let options = etcd::connection(matches, members, prefix);
            runtime.block_on(Etcd::read(options, &mut take))
        }
    };
    read.map_err(|error| error.to_string())?;
    let count = records.len();
    let progress = Progress::new();
    let stored = match to {
        Place::Sqlite(folder) => {
            progress.last_step("storing");
            store(folder, records)
        }
        Place::Etcd(members, prefix) => {
            progress.step("storing", count);
            let options = etcd::connection(matches, members, prefix);
            let advance = || progress.advance();
            runtime
                .block_on(Etcd::fill(options, &records, &advance))
                .map_err(|error| error.to_string())
        }
    };
    stored?;
    drop(progress);
    print(output, &format!("{count} records copied\n"))
}

fn store(folder: &Path, records: Vec<Record>) -> Result<(), String> {
    let text = |error: StoreError| error.to_string();
    let mut store = Sqlite::open(folder).map_err(text)?;
    let mut is_empty = true;
    store.load(&mut |_| is_empty = false).map_err(text)?;
    if !is_empty {
        return Err(format!(
            "the storage in {} is not empty; name a folder without one; nothing was copied",
            folder.display()
        ));
    }
    store.commit(&Batch::from(records)).map_err(text)
}

impl Place {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(folder) = text.strip_prefix("sqlite:").filter(|rest| !rest.is_empty()) {
            return Ok(Self::Sqlite(folder.into()));
        }
        let rest = text.strip_prefix("etcd://");
        let rest = rest.ok_or("expected sqlite:FOLDER or etcd://HOST:PORT,HOST:PORT/PREFIX")?;
        let (members, prefix) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, EtcdOptions::PREFIX),
        };
        if members.split(',').any(str::is_empty) {
            return Err("expected members after etcd://, such as etcd-1:2379,etcd-2:2379".into());
        }
        let prefix = if prefix == "/" {
            EtcdOptions::PREFIX
        } else {
            prefix
        };
        let members = members.split(',').map(str::to_owned);
        Ok(Self::Etcd(members.collect(), prefix.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_of_etcd_names_members_and_a_prefix() {
        for (url, prefix) in [
            ("etcd://a:1,b:2", EtcdOptions::PREFIX),
            ("etcd://a:1,b:2/", EtcdOptions::PREFIX),
            ("etcd://a:1,b:2/mine/", "/mine/"),
        ] {
            let Ok(Place::Etcd(members, found)) = Place::parse(url) else {
                panic!("{url}");
            };
            assert_eq!(members, ["a:1", "b:2"]);
            assert_eq!(found, prefix);
        }
        for wrong in ["etcd://", "etcd:///x", "sqlite:", "data", "etcd://a:1,,b:2"] {
            Place::parse(wrong).unwrap_err();
        }
    }
}
