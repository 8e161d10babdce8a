//! `cargo xtask proto`: wire code from `proto/`, checked in, made without `protoc`, and compared in a test.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use prost::Message;
use prost_types::FileDescriptorSet;

use crate::failure::Failure;

/// One folder of `.proto` files of one package and the one Rust file made from it.
struct Package {
    /// The folder below `proto/`; its `.proto` files belong to the package, its subfolders do not.
    folder: &'static str,
    /// The file name `prost` gives the package; `_` stands for files that declare none.
    prost_name: &'static str,
    /// Where the Rust file goes, from the workspace root.
    output: &'static str,
    /// Whether gRPC clients and servers are wanted beside the messages.
    services: bool,
    /// Whether the files enter the descriptor set that reflection and the RPC table test read.
    described: bool,
    /// Messages that carry a secret, by proto path and by Rust name: their `Debug` prints dots, so that no log line
    /// can hold one.
    secret: &'static [(&'static str, &'static str)],
    /// Packages whose messages it uses, and the Rust modules that have them.
    uses: &'static [(&'static str, &'static str)],
    /// Proto paths of messages, or of `bytes` fields, that are shared by all who send them, and not copied for each.
    shared: &'static [&'static str],
}

const PACKAGES: &[Package] = &[
    Package {
        folder: "mintage/v1",
        prost_name: "mintage.v1.rs",
        output: "crates/proto/src/gen/v1.rs",
        services: true,
        described: true,
        secret: &[
            (".mintage.v1.AttestRequest", "AttestRequest"),
            (".mintage.v1.CreateTokenResponse", "CreateTokenResponse"),
            (".mintage.v1.JwtResult", "JwtResult"),
        ],
        uses: &[],
        shared: &[
            ".mintage.v1.Revoked",
            ".mintage.v1.SnapshotChunk",
            ".mintage.v1.WatchNews",
        ],
    },
    // The SPIFFE Workload API is published without a package, so its gRPC path is `/SpiffeWorkloadAPI/...`.
    Package {
        folder: "spiffe",
        prost_name: "_.rs",
        output: "crates/proto/src/gen/workload.rs",
        services: true,
        described: true,
        secret: &[
            (".X509SVID", "X509svid"),
            (".JWTSVID", "Jwtsvid"),
            (".ValidateJWTSVIDRequest", "ValidateJwtsvidRequest"),
        ],
        uses: &[],
        shared: &[],
    },
    // The part of Envoy's external authorization that the agent answers, in the three packages that it is spread over.
    Package {
        folder: "google/rpc",
        prost_name: "google.rpc.rs",
        output: "crates/proto/src/gen/google_rpc.rs",
        services: false,
        described: true,
        secret: &[],
        uses: &[],
        shared: &[],
    },
    Package {
        folder: "envoy/type/v3",
        prost_name: "envoy.r#type.v3.rs",
        output: "crates/proto/src/gen/envoy_type.rs",
        services: false,
        described: true,
        secret: &[],
        uses: &[],
        shared: &[],
    },
    Package {
        folder: "envoy/service/auth/v3",
        prost_name: "envoy.service.auth.v3.rs",
        output: "crates/proto/src/gen/envoy_auth.rs",
        services: true,
        described: true,
        secret: &[],
        uses: &[
            (".google.rpc", "crate::google_rpc"),
            (".envoy.type.v3", "crate::envoy_type"),
        ],
        shared: &[],
    },
    // Envoy's SDS: service and messages of several published packages in one, see the file.
    Package {
        folder: "envoy/sds",
        prost_name: "envoy.service.secret.v3.rs",
        output: "crates/proto/src/gen/sds.rs",
        services: true,
        described: true,
        secret: &[
            (".envoy.service.secret.v3.DiscoveryResponse", "DiscoveryResponse"),
            (
                ".envoy.service.secret.v3.DeltaDiscoveryResponse",
                "DeltaDiscoveryResponse",
            ),
            (".envoy.service.secret.v3.Resource", "Resource"),
            (".envoy.service.secret.v3.Any", "Any"),
            (".envoy.service.secret.v3.DataSource", "DataSource"),
            (".envoy.service.secret.v3.TlsCertificate", "TlsCertificate"),
            (".envoy.service.secret.v3.Secret", "Secret"),
        ],
        uses: &[],
        // Many streams hold one context with its lists of revoked certificates.
        shared: &[".envoy.service.secret.v3.Any.value"],
    },
    // The ledger crate may not import the wire crate, so its records are generated into the ledger itself.
    Package {
        folder: "mintage/ledger/v1",
        prost_name: "mintage.ledger.v1.rs",
        output: "crates/ledger/src/gen.rs",
        services: false,
        described: false,
        secret: &[],
        uses: &[],
        shared: &[],
    },
];

/// The module that ties the wire crate's generated files together.
const MODULE: &str = "crates/proto/src/gen/mod.rs";
/// The encoded `FileDescriptorSet` of every described package, imports included.
const DESCRIPTORS: &str = "crates/proto/src/gen/descriptors.bin";
/// The folder in which every file is generated, so that a file nobody generates any more is found.
const OWNED_FOLDER: &str = "crates/proto/src/gen";

/// Generated code follows its generator's habits, not ours; what it lacks is written in the `.proto` files.
const ALLOWED: &str = "#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, rustdoc::all)]\n";

/// File contents by path from the workspace root.
type Outputs = BTreeMap<PathBuf, Vec<u8>>;

/// Generates everything and writes what differs.
pub(crate) fn write(root: &Path) -> Result<(), Failure> {
    let (outputs, missing) = generate(root)?;
    for folder in missing {
        eprintln!("note: proto/{folder} holds no .proto file yet; nothing generated for it");
    }
    for (path, content) in &outputs {
        let target = root.join(path);
        if fs::read(&target).is_ok_and(|old| old == *content) {
            continue;
        }
        let folder = target.parent().unwrap_or(root);
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&target, content))
            .map_err(|error| Failure::new(path.display(), error))?;
        println!("wrote {}", path.display());
    }
    for stale in strangers(root, &outputs) {
        fs::remove_file(root.join(&stale)).map_err(|error| Failure::new(stale.display(), error))?;
        println!("removed {}", stale.display());
    }
    Ok(())
}

/// Generates everything and compares it with what is checked in; names every file that differs.
pub(crate) fn check(root: &Path) -> Result<(), Failure> {
    let (outputs, missing) = generate(root)?;
    let mut drift: Vec<String> = missing
        .iter()
        .map(|folder| format!("proto/{folder}: no .proto file"))
        .collect();
    for (path, content) in &outputs {
        match fs::read(root.join(path)) {
            Err(error) => drift.push(format!("{}: {error}", path.display())),
            Ok(found) => drift.extend(difference(path, &found, content)),
        }
    }
    drift.extend(
        strangers(root, &outputs)
            .iter()
            .map(|path| format!("{}: nothing generates it", path.display())),
    );
    if drift.is_empty() {
        println!("generated code matches proto/ ({} files)", outputs.len());
        return Ok(());
    }
    Err(Failure::new(
        "generated code differs from proto/ (mend with `cargo xtask proto`)",
        drift.join("; "),
    ))
}

/// Every output, and the folders that have no `.proto` file.
fn generate(root: &Path) -> Result<(Outputs, Vec<&'static str>), Failure> {
    let mut outputs = Outputs::new();
    let mut missing = Vec::new();
    let mut described = Vec::new();
    for package in PACKAGES {
        let files = proto_files(root, package.folder)?;
        if files.is_empty() {
            missing.push(package.folder);
            continue;
        }
        let source = package_code(root, package, &files)?;
        let header = format!(
            "//! Generated by `cargo xtask proto` from `proto/{}`; edits are lost.\n{ALLOWED}\n",
            package.folder
        );
        let debugs = quiet_debugs(package, &source)?;
        let code = rustfmt(root, package.output, &format!("{header}{source}{debugs}"))?;
        outputs.insert(package.output.into(), code);
        if package.described {
            described.extend(files);
        }
    }
    if !described.is_empty() {
        // Without source information: comments would double the size and tell nothing to a machine.
        let set = compile(root, &described, false)?;
        outputs.insert(DESCRIPTORS.into(), set.encode_to_vec());
        outputs.insert(MODULE.into(), rustfmt(root, MODULE, &module_code(&outputs))?);
    }
    Ok((outputs, missing))
}

/// The `.proto` files directly in `proto/<folder>`, as paths from `proto/`, in a fixed order.
fn proto_files(root: &Path, folder: &str) -> Result<Vec<PathBuf>, Failure> {
    let path = root.join("proto").join(folder);
    if !path.is_dir() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(&path).map_err(|error| Failure::new(path.display(), error))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| Path::new(folder).join(entry.file_name()))
        .filter(|file| file.extension().is_some_and(|extension| extension == "proto"))
        .collect();
    files.sort();
    Ok(files)
}

fn compile(root: &Path, files: &[PathBuf], comments: bool) -> Result<FileDescriptorSet, Failure> {
    let compiled = protox::Compiler::new([root.join("proto")]).and_then(|mut compiler| {
        compiler.include_imports(true).include_source_info(comments);
        compiler.open_files(files)?;
        Ok(compiler.file_descriptor_set())
    });
    // The Debug form carries the file, the line and the column; Display names only the fault.
    compiled.map_err(|error| Failure::new("proto/", format!("{error}\n{error:?}")))
}

/// The Rust code of one package, as the generator wrote it.
fn package_code(root: &Path, package: &Package, files: &[PathBuf]) -> Result<String, Failure> {
    let set = compile(root, files, true)?;
    let scratch = std::env::temp_dir().join(format!("mintage-xtask-{}-{}", std::process::id(), package.prost_name));
    let problem = |error: std::io::Error| Failure::new(format!("proto/{}", package.folder), error);
    fs::create_dir_all(&scratch).map_err(problem)?;
    let mut builder = tonic_prost_build::configure();
    for (used, module) in package.uses {
        builder = builder.extern_path(*used, *module);
    }
    for path in package.shared {
        builder = builder.bytes(path);
    }
    let generated = builder
        .build_client(package.services)
        .build_server(package.services)
        // Connections are made by our own TLS connectors, never by a generated `connect`.
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .skip_debug(package.secret.iter().map(|(path, _)| *path))
        .out_dir(&scratch)
        .compile_fds(set)
        .and_then(|()| fs::read_to_string(scratch.join(package.prost_name)));
    fs::remove_dir_all(&scratch).map_err(problem)?;
    generated.map_err(|error| {
        let wanted = package.prost_name.trim_end_matches(".rs");
        Failure::new(
            format!("proto/{} (its files must declare package {wanted})", package.folder),
            error,
        )
    })
}

/// `Debug` for the package's secret messages, which prints the name and nothing else.
fn quiet_debugs(package: &Package, source: &str) -> Result<String, Failure> {
    let mut code = String::new();
    for (path, name) in package.secret {
        if !source.contains(&format!("pub struct {name} {{")) {
            // A renamed message must not lose its silence unnoticed.
            return Err(Failure::new(
                format!("proto/{}", package.folder),
                format!("no message {path} (struct {name})"),
            ));
        }
        code.push_str(&format!(
            "\n/// Prints dots: the message carries a secret.\nimpl ::core::fmt::Debug for {name} {{\n\
             fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{\n\
             f.debug_struct(\"{name}\").finish_non_exhaustive()\n}}\n}}\n"
        ));
    }
    Ok(code)
}

/// `mod.rs` of the wire crate: one module per generated file, and the descriptor bytes.
fn module_code(outputs: &Outputs) -> String {
    let mut code = String::from("//! Generated by `cargo xtask proto`; edits are lost.\n\n");
    for package in PACKAGES.iter().filter(|package| package.described) {
        let output = Path::new(package.output);
        let name = output.file_stem().unwrap_or_default().to_string_lossy();
        if outputs.contains_key(output) {
            code.push_str(&format!(
                "/// The messages and services of `proto/{}`.\npub mod {name};\n",
                package.folder
            ));
        }
    }
    code.push_str(
        "\n/// The encoded `FileDescriptorSet` of every service here, for reflection and for tests that list RPCs.\n",
    );
    code.push_str("pub const DESCRIPTORS: &[u8] = include_bytes!(\"descriptors.bin\");\n");
    code
}

/// The text in the workspace's own format, so that `cargo fmt --check` and the drift test agree.
fn rustfmt(root: &Path, name: &str, code: &str) -> Result<Vec<u8>, Failure> {
    let doing = || format!("rustfmt {name}");
    let mut child = Command::new("rustfmt")
        .args(["--edition", "2024", "--config-path"])
        .arg(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| Failure::new(doing(), error))?;
    let mut input = child.stdin.take().ok_or_else(|| Failure::new(doing(), "no stdin"))?;
    let text = code.to_owned();
    // Written from a second thread: rustfmt may fill its stdout before it has read everything.
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output().map_err(|error| Failure::new(doing(), error))?;
    let written = writer.join().map_err(|_| Failure::new(doing(), "writer thread died"))?;
    if !output.status.success() {
        return Err(Failure::new(doing(), output.status));
    }
    written.map_err(|error| Failure::new(doing(), error))?;
    Ok(output.stdout)
}

/// One sentence when the two contents differ.
fn difference(path: &Path, found: &[u8], wanted: &[u8]) -> Option<String> {
    if found == wanted {
        return None;
    }
    let place = match (std::str::from_utf8(found), std::str::from_utf8(wanted)) {
        (Ok(found), Ok(wanted)) => {
            let same = found
                .lines()
                .zip(wanted.lines())
                .take_while(|(left, right)| left == right)
                .count();
            format!("line {}", same + 1)
        }
        _ => {
            let same = found
                .iter()
                .zip(wanted)
                .take_while(|(left, right)| left == right)
                .count();
            format!("byte {}", same + 1)
        }
    };
    Some(format!("{} differs at {place}", path.display()))
}

/// Files in the generated folder that no package makes.
fn strangers(root: &Path, outputs: &Outputs) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root.join(OWNED_FOLDER)) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| Path::new(OWNED_FOLDER).join(entry.file_name()))
        .filter(|path| !outputs.contains_key(path))
        .collect();
    found.sort();
    found
}
