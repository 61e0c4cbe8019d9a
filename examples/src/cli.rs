//! The command line of `pipeline`.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use subscription_core::{Error, ErrorKind, Result, Table};
use subscription_delta::Scan;

use crate::demo::{self, Demo};
use crate::emit::{self, Emit};
use crate::exit::{At, EXIT_CODES, Exit, Failure, Outcome, report};
use crate::generate::Generate;
use crate::kafka::{self, Lag, Topic};
use crate::lake;
use crate::maintain::{self, Maintain};
use crate::run::{self, Run};
use crate::show::{ShowFormat, Shower};
use crate::summary::Summary;
use crate::tables::TablesPage;
use crate::usage::{self, Usage};

/// Meters API usage: from files of events, access logs or a Kafka topic to validated, deduplicated, aggregated and priced usage in Delta tables
#[derive(Debug, Parser)]
#[command(name = "pipeline", version, after_help = EXIT_CODES, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Generate traffic with every kind of trouble, run all layers, show what came out
    Demo(Demo),
    /// Write made-up events to standard output, one JSON object a line
    Generate(Generate),
    /// Send the records of files, or of standard input, to a Kafka topic
    Emit(Emit),
    /// Read files, or a topic of Kafka, and fill the tables of a lake; run again, it goes on where the tables are
    Run(Box<Run>),
    /// Make or describe the topic
    #[command(subcommand)]
    Topic(Topic),
    /// Show what a tenant has used, as gateways see it now
    Usage(Usage),
    /// Show how far a lake is behind a topic
    Lag(Lag),
    /// Show rows, version, files, bytes and positions of each table, and the ledger
    Tables(Tables),
    /// Show rows of a table
    Show(Show),
    /// Recompute ledger and uniqueness from the rows; exit code 1 if the lake is broken
    Verify(Verify),
    /// Merge small files of a lake, and delete what nobody needs any more; pipelines may go on writing it
    Maintain(Maintain),
    /// Ask the tables in SQL (in a build with `--features sql`)
    Query(Query),
}

#[derive(Debug, Args)]
struct Tables {
    #[command(flatten)]
    lake: lake::Place,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Show {
    /// Name of the table, such as silver_api_usage; `pipeline tables` lists them
    table: String,

    #[command(flatten)]
    lake: lake::Place,

    /// Rows of this tenant only
    #[arg(long, value_name = "T")]
    tenant: Option<String>,

    /// So many rows at most [default: 20 in columns, else all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,

    /// How rows are shown
    #[arg(long, value_enum, default_value_t)]
    format: ShowFormat,

    /// Columns, in this order [default: all but `state`]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    columns: Option<Vec<String>>,
}

#[derive(Debug, Args)]
struct Verify {
    #[command(flatten)]
    lake: lake::Place,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Query {
    #[command(flatten)]
    lake: lake::Place,

    /// One statement; tables have their own names
    sql: String,

    /// How rows are shown
    #[arg(long, value_enum, default_value_t)]
    format: ShowFormat,
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        // Neither threads nor a runtime for what needs none.
        Command::Generate(generate) => generate.write(io::stdout().lock()).at_usage().map(|()| Exit::Ok),
        command => runtime().and_then(|runtime| runtime.block_on(dispatch(command))),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(Failure { exit, error }) => {
            let _ = io::stderr().write_all(report(&error).as_bytes());
            exit.into()
        }
    }
}

fn runtime() -> Outcome<tokio::runtime::Runtime> {
    subscription_pipeline::runtime().at_usage()
}

async fn dispatch(command: Command) -> Outcome {
    match command {
        Command::Demo(args) => summary(demo::demo(&args).await?, args.json),
        Command::Emit(args) => {
            let (exit, sent) = emit::emit(&args).await?;
            print(&sent.render())?;
            Ok(exit)
        }
        Command::Run(args) => summary(run::run(&args).await?, args.json),
        Command::Topic(topic) => printed(kafka::topic(&topic).await?),
        Command::Usage(args) => printed(usage::usage(&args).await?),
        Command::Lag(args) => printed(kafka::lag(&args).await?),
        Command::Tables(args) => tables(args).await,
        Command::Show(args) => show(args).await,
        Command::Verify(args) => verify(args).await,
        Command::Maintain(args) => printed((Exit::Ok, maintain::maintain(&args).await.at_lake()?)),
        Command::Query(args) => query(args).await,
        Command::Generate(_) => unreachable!("needs no runtime"),
    }
}

fn summary((exit, summary): (Exit, Summary), json: bool) -> Outcome {
    print(&if json { summary.json() + "\n" } else { summary.render() })?;
    Ok(exit)
}

fn printed((exit, page): (Exit, String)) -> Outcome {
    print(&page)?;
    Ok(exit)
}

async fn tables(args: Tables) -> Outcome {
    let store = args.lake.open().await.at_lake()?;
    let infos = store.info().await.at_lake()?;
    let page = TablesPage { lake: store.path(), tables: lake::tables(&infos), ledger: lake::ledger(&infos) };
    print(&if args.json { page.json() + "\n" } else { page.render() })?;
    Ok(Exit::Ok)
}

async fn verify(args: Verify) -> Outcome {
    let store = args.lake.open().await.at_lake()?;
    let verdict = lake::verify(&store).await.at_lake()?;
    let json = || serde_json::to_string_pretty(&verdict).expect("strings and numbers go into memory") + "\n";
    print(&if args.json { json() } else { verdict.render() })?;
    Ok(if verdict.sound { Exit::Ok } else { Exit::Broken })
}

async fn show(args: Show) -> Outcome {
    use futures::TryStreamExt;
    let table = table(&args.table).at_usage()?;
    let store = args.lake.open().await.at_lake()?;
    let columns = args.columns.unwrap_or_else(|| shown_columns(table));
    let limit = args.limit.or((args.format == ShowFormat::Table).then_some(20));
    let scan = Scan { columns: Some(columns), tenant: args.tenant, limit };
    let mut batches = store.scan(table, scan).await.map_err(|error| Failure {
        exit: if error.kind() == ErrorKind::Configuration { Exit::Usage } else { Exit::Lake },
        error,
    })?;
    let mut shower = Shower::new(args.format, BufWriter::new(io::stdout().lock()));
    let mut rows = 0;
    while let Some(batch) = batches.try_next().await.at_lake()? {
        rows += batch.num_rows();
        if !written(shower.add(&batch))? {
            return Ok(Exit::Ok);
        }
    }
    written(shower.finish())?;
    if rows == 0 {
        eprintln!("no rows");
    } else if limit == Some(rows) && args.limit.is_none() {
        eprintln!("the first {rows} rows; --limit shows more");
    }
    Ok(Exit::Ok)
}

/// All columns but the engines' own, which nobody can read.
fn shown_columns(table: Table) -> Vec<String> {
    let schema = subscription_delta::DeltaStore::schema(table);
    schema.fields().iter().map(|field| field.name().clone()).filter(|name| name != "state").collect()
}

fn table(name: &str) -> Result<Table> {
    Table::from_name(name).ok_or_else(|| {
        let names: Vec<_> = Table::ALL.iter().map(|table| table.name()).collect();
        Error::new(ErrorKind::Configuration, format!("there is no table `{name}`"))
            .with_help(format!("the tables are {}", names.join(", ")))
    })
}

#[cfg(feature = "sql")]
async fn query(args: Query) -> Outcome {
    let store = args.lake.open().await.at_lake()?;
    let batches = store.query(&args.sql).await.map_err(|error| Failure {
        exit: if error.kind() == ErrorKind::Configuration { Exit::Usage } else { Exit::Lake },
        error,
    })?;
    let mut shower = Shower::new(args.format, BufWriter::new(io::stdout().lock()));
    for batch in &batches {
        if !written(shower.add(batch))? {
            return Ok(Exit::Ok);
        }
    }
    written(shower.finish())?;
    Ok(Exit::Ok)
}

#[cfg(not(feature = "sql"))]
async fn query(args: Query) -> Outcome {
    let Query { lake, sql: _, format: _ } = args;
    let lake = lake.path();
    Err(Error::new(ErrorKind::Configuration, "this build of the program has no SQL").with_help(format!(
        "build it with SQL: cargo run --release --features sql --bin pipeline -- query ...; \
         or read {lake} with any Delta reader, such as DuckDB"
    )))
    .at_usage()
}

/// Writes to standard output; that nobody reads on is no error.
fn print(text: &str) -> Outcome<()> {
    let mut out = io::stdout().lock();
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush())).map(|_| ())
}

/// Whether it was written; not, where nobody reads on.
fn written(result: io::Result<()>) -> Outcome<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => {
            Err(Error::new(ErrorKind::Other, "cannot write to standard output").with_source(error)).at_usage()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_are_as_documented() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|cli| cli.command);
        for line in [
            "pipeline demo",
            "pipeline generate --events 10 --tenants 3 --seed 1 --rate 100",
            "pipeline emit a b.gz - --kafka h:1 --topic t --rate 100 -X client.id=x --kafka-property a=b=c",
            "pipeline run --input a b.gz - --lake x --format events --partitions 8 --plans p.toml --config c.toml --commit-interval 1s",
            "pipeline run --input a --lake x --format access-log --tenant-by path:2",
            "pipeline tables --lake x --json",
            "pipeline show silver_api_usage --lake x --tenant t --limit 3 --format csv",
            "pipeline verify --lake x",
            "pipeline maintain --lake x --target-size 64MiB",
            "pipeline query --lake x SELECT",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
        for line in [
            "pipeline",
            "pipeline emit --kafka h:1",
            "pipeline emit a --kafka h -X x",
            "pipeline run --format csv",
            "pipeline generate",
            "pipeline show --lake x",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_table_that_is_not_there_is_told_with_those_that_are() {
        let error = table("silver").expect_err("no table");
        assert!(error.help().expect("help").contains("silver_api_usage"));
    }
}
