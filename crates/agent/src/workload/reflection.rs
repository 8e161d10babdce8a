//! gRPC reflection, version 1: the services of the socket and nothing else that the wire knows (SPIFFE Workload API,
//! section 4, asks for it).

use mintage_proto::DESCRIPTORS;
use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use tonic_reflection::server::{
    Builder,
    v1::{ServerReflection, ServerReflectionServer},
};

use crate::{AgentError, roles::TABLE};

/// The service.
pub(super) fn service() -> Result<ServerReflectionServer<impl ServerReflection>, AgentError> {
    let files = FileDescriptorSet {
        file: files_of_the_socket(),
    };
    let built = Builder::configure()
        .register_file_descriptor_set(files)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1();
    built.map_err(|_| AgentError::Bug("the descriptors cannot be read"))
}

/// The files that describe a service of the role table, and all that those import.
fn files_of_the_socket() -> Vec<FileDescriptorProto> {
    // Generated with the code; a set that does not decode describes nothing, which a test notices.
    let all = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default().file;
    let of_table = |file: &&FileDescriptorProto| {
        file.service.iter().any(|service| {
            let prefix = match file.package() {
                "" => format!("/{}/", service.name()),
                package => format!("/{package}.{}/", service.name()),
            };
            TABLE.iter().any(|(path, _)| path.starts_with(&prefix))
        })
    };
    let mut wanted: Vec<String> = all.iter().filter(of_table).map(|file| file.name().to_owned()).collect();
    let mut at = 0;
    while let Some(name) = wanted.get(at).cloned() {
        at += 1;
        let imports = all
            .iter()
            .filter(|file| file.name() == name)
            .flat_map(|file| &file.dependency);
        for import in imports {
            if !wanted.contains(import) {
                wanted.push(import.clone());
            }
        }
    }
    all.into_iter()
        .filter(|file| wanted.iter().any(|name| name == file.name()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_describes_its_own_services_and_no_other() {
        let files = files_of_the_socket();
        let mut services: Vec<&str> = files
            .iter()
            .flat_map(|file| &file.service)
            .map(|service| service.name())
            .collect();
        services.sort_unstable();
        assert_eq!(
            services,
            [
                "AgentLocal",
                "Authorization",
                "RevocationLookup",
                "SecretDiscoveryService",
                "SpiffeWorkloadAPI"
            ]
        );
        let names: Vec<&str> = files.iter().map(FileDescriptorProto::name).collect();
        for file in &files {
            for import in &file.dependency {
                assert!(names.contains(&import.as_str()), "{} imports {import}", file.name());
            }
        }
        assert!(service().is_ok());
    }
}
