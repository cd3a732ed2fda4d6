//! Phone numbers in a file, as a person writes them down from a console: CSV or JSON.

use std::{
    collections::HashMap,
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use clap::{Arg, builder::PossibleValuesParser};
use serde::{Deserialize, Serialize};

use super::{ArgMatches, given, option, progress::Progress};
use crate::{
    domain::{AccountKey, DisplayName, MessagingLimit, NumberKey, PhoneNumber, WabaId},
    providers,
    state::Observation,
};

/// The file that is standard input or output.
const PIPE: &str = "-";
const FORMAT: &str = "format";

/// How the numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Csv,
    Json,
}

/// A number, in the order of the columns.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    provider: String,
    #[serde(default)]
    waba_id: String,
    phone_number: String,
    #[serde(default)]
    name: String,
    /// A limit as it is said: `10K`, `10000`, `unlimited`; empty where it is not known.
    #[serde(default)]
    messaging_limit: String,
}

/// The option and what it says without a value.
pub(super) fn format_option() -> Arg {
    option(
        FORMAT,
        "FORMAT",
        "csv or json; without it, as the name of the file ends, otherwise csv",
    )
    .value_parser(PossibleValuesParser::new(["csv", "json"]))
}

pub(super) fn format(matches: &ArgMatches, path: &Path) -> Format {
    let named = given::<String>(matches, FORMAT).map(String::as_str);
    let ending = path.extension().and_then(|ending| ending.to_str());
    match named.or(ending) {
        Some("json") => Format::Json,
        _ => Format::Csv,
    }
}

pub(super) fn is_pipe(path: &Path) -> bool {
    path == Path::new(PIPE)
}

/// Reads a file, or standard input.
pub(super) fn read(
    path: &PathBuf,
    format: Format,
    progress: &Progress,
) -> Result<Vec<Observation>, String> {
    let shown = path.display();
    let mut text = Vec::new();
    let read = match is_pipe(path) {
        true => std::io::stdin().read_to_end(&mut text),
        false => fs::File::open(path).and_then(|mut file| file.read_to_end(&mut text)),
    };
    read.map_err(|error| format!("cannot read {shown}: {error}"))?;
    let numbers = match format {
        Format::Csv => read_csv(&text, progress),
        Format::Json => read_json(&text, progress),
    };
    numbers.map_err(|error| format!("{shown}: {error}; nothing is imported"))
}

fn read_csv(text: &[u8], progress: &Progress) -> Result<Vec<Observation>, String> {
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(text);
    let headers = reader.headers().map_err(|error| error.to_string())?.clone();
    progress.step(
        "reading",
        text.iter().filter(|byte| **byte == b'\n').count(),
    );
    let mut numbers = Numbers::default();
    for record in reader.records() {
        let record = record.map_err(|error| match error.kind() {
            csv::ErrorKind::UnequalLengths {
                pos,
                expected_len,
                len,
            } => {
                let line = pos.as_ref().map_or(0, csv::Position::line);
                format!("line {line}: it has {len} columns, and the first line has {expected_len}")
            }
            _ => error.to_string(),
        })?;
        let line = record.position().map_or(0, csv::Position::line);
        let place = format!("line {line}");
        let row: Row = record
            .deserialize(Some(&headers))
            .map_err(|error| match error.kind() {
                csv::ErrorKind::Deserialize { err, .. } => format!("{place}: {}", err.kind()),
                _ => error.to_string(),
            })?;
        numbers.push(row, place)?;
        progress.advance();
    }
    Ok(numbers.all)
}

fn read_json(text: &[u8], progress: &Progress) -> Result<Vec<Observation>, String> {
    let rows: Vec<Row> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    progress.step("reading", rows.len());
    let mut numbers = Numbers::default();
    for (index, row) in rows.into_iter().enumerate() {
        numbers.push(row, format!("number {} of the list", index + 1))?;
        progress.advance();
    }
    Ok(numbers.all)
}

/// The numbers that are read, each of which may stand in one place alone.
#[derive(Default)]
struct Numbers {
    all: Vec<Observation>,
    places: HashMap<NumberKey, String>,
}

impl Numbers {
    fn push(&mut self, row: Row, place: String) -> Result<(), String> {
        let number = row
            .observation()
            .map_err(|error| format!("{place}: {error}"))?;
        if let Some(before) = self.places.insert(number.key.clone(), place.clone()) {
            return Err(format!("{place}: the number stands in {before}, too"));
        }
        self.all.push(number);
        Ok(())
    }
}

impl Row {
    fn observation(&self) -> Result<Observation, String> {
        let provider = providers::by_name(&self.provider).ok_or_else(|| {
            let names = providers::ALL.iter().map(|provider| provider.name.as_str());
            let names: Vec<_> = names.collect();
            format!("the provider is not one of {}", names.join(", "))
        })?;
        let waba_id = WabaId::parse(&self.waba_id).map_err(|error| error.to_string())?;
        let phone_number = PhoneNumber::parse(&self.phone_number);
        let limit = match self.messaging_limit.as_str() {
            "" => None,
            text => {
                let limit = MessagingLimit::parse(text);
                Some(limit.ok_or("the limit is not one, such as 250, 10K or unlimited")?)
            }
        };
        let account = AccountKey {
            provider: provider.name,
            waba_id,
        };
        Ok(Observation {
            key: NumberKey::of(&account, &phone_number.map_err(|error| error.to_string())?),
            name: DisplayName::parse(&self.name).map_err(|error| error.to_string())?,
            limit,
        })
    }

    fn new(number: &Observation) -> Self {
        let account = &number.key.account;
        let limit = number.limit.map(|limit| match limit {
            MessagingLimit::UNLIMITED => "unlimited".into(),
            limit => limit.to_string(),
        });
        Self {
            provider: account.provider.to_string(),
            waba_id: account.waba_id.as_str().into(),
            phone_number: number.key.phone_number.as_str().into(),
            name: number
                .name
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            messaging_limit: limit.unwrap_or_default(),
        }
    }
}

/// Writes numbers in a format.
pub(super) fn write(
    numbers: &[Observation],
    format: Format,
    output: &mut dyn Write,
) -> Result<(), String> {
    let rows = numbers.iter().map(Row::new);
    match format {
        Format::Csv => {
            let mut writer = csv::Writer::from_writer(output);
            for row in rows {
                writer.serialize(row).map_err(|error| error.to_string())?;
            }
            if numbers.is_empty() {
                let columns = [
                    "provider",
                    "waba_id",
                    "phone_number",
                    "name",
                    "messaging_limit",
                ];
                writer
                    .write_record(columns)
                    .map_err(|error| error.to_string())?;
            }
            writer.flush().map_err(|error| error.to_string())
        }
        Format::Json => {
            let rows: Vec<_> = rows.collect();
            let written = serde_json::to_writer_pretty(&mut *output, &rows);
            written.map_err(|error| error.to_string())?;
            writeln!(output).map_err(|error| error.to_string())
        }
    }
}
