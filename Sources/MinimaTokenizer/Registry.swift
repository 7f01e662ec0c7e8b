/// The components that tokenizer.json may name. One component is one file and one line here.
enum Registry {
    static let normalizers: [any Normalizer.Type] = [
        NormalizerSequence.self,
        NFCNormalizer.self,
        NFDNormalizer.self,
        LowercaseNormalizer.self,
        PrependNormalizer.self,
        ReplaceNormalizer.self,
        StripNormalizer.self,
        StripAccentsNormalizer.self,
        ByteLevelNormalizer.self,
    ]

    static let preTokenizers: [any PreTokenizer.Type] = [
        PreTokenizerSequence.self,
        SplitPreTokenizer.self,
        ByteLevelPreTokenizer.self,
        MetaspacePreTokenizer.self,
        DigitsPreTokenizer.self,
        WhitespacePreTokenizer.self,
        WhitespaceSplitPreTokenizer.self,
        PunctuationPreTokenizer.self,
        DelimiterPreTokenizer.self,
    ]

    static let postProcessors: [any PostProcessor.Type] = [
        PostProcessorSequence.self,
        TemplateProcessing.self,
        ByteLevelPostProcessor.self,
        BertProcessing.self,
        RobertaProcessing.self,
    ]

    static let decoders: [any Decoder.Type] = [
        DecoderSequence.self,
        ByteLevelDecoder.self,
        ByteFallbackDecoder.self,
        FuseDecoder.self,
        MetaspaceDecoder.self,
        ReplaceDecoder.self,
        StripDecoder.self,
        BPEDecoder.self,
    ]

    static let models: [any Model.Type] = [BPEModel.self]

    static func normalizer(_ section: ConfigSection) throws(TokenizerError) -> any Normalizer {
        let name = try section.typeName()
        for type in normalizers where type.typeName == name { return try type.init(section) }
        throw unsupported(name, section, normalizers.map { $0.typeName })
    }

    static func preTokenizer(_ section: ConfigSection) throws(TokenizerError) -> any PreTokenizer {
        let name = try section.typeName()
        for type in preTokenizers where type.typeName == name { return try type.init(section) }
        throw unsupported(name, section, preTokenizers.map { $0.typeName })
    }

    static func postProcessor(
        _ section: ConfigSection
    ) throws(TokenizerError) -> any PostProcessor {
        let name = try section.typeName()
        for type in postProcessors where type.typeName == name { return try type.init(section) }
        throw unsupported(name, section, postProcessors.map { $0.typeName })
    }

    static func decoder(_ section: ConfigSection) throws(TokenizerError) -> any Decoder {
        let name = try section.typeName()
        for type in decoders where type.typeName == name { return try type.init(section) }
        throw unsupported(name, section, decoders.map { $0.typeName })
    }

    static func model(_ section: ConfigSection) throws(TokenizerError) -> any Model {
        // Files from before tokenizers 0.9 leave the type out; they are BPE when they have merges.
        let implied = section.optionalSection("type") == nil && section.json["merges"] != nil
        let name = implied ? BPEModel.typeName : try section.typeName()
        for type in models where type.typeName == name { return try type.init(section) }
        throw unsupported(name, section, models.map { $0.typeName })
    }

    private static func unsupported(
        _ name: String, _ section: ConfigSection, _ supported: [String]
    ) -> TokenizerError {
        .unsupported(
            file: section.file, section: section.path, component: name, supported: supported)
    }
}
