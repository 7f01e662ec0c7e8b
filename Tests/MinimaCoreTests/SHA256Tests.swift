import MinimaCore
import Testing

/// Against the examples of FIPS 180-4 (NIST's "SHA256.pdf").
@Suite("SHA-256") struct SHA256Tests {
    private func digest(_ pieces: [ArraySlice<UInt8>]) -> String {
        var hash = SHA256()
        for piece in pieces { piece.withUnsafeBytes { hash.update($0) } }
        return hash.hexadecimalDigest()
    }

    @Test(
        "known answers",
        arguments: [
            ("", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
            ),
            (
                "a", 1_000_000,
                "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
            ),
        ])
    func knownAnswers(text: String, count: Int, expected: String) {
        let bytes = Array(String(repeating: text, count: count).utf8)
        #expect(digest([bytes[...]]) == expected)
        #expect(
            digest(bytes.prefix(200).indices.map { bytes[$0...$0] } + [bytes.dropFirst(200)])
                == expected)
    }

    @Test("pieces do not matter", arguments: [0, 55, 56, 63, 64, 65, 119, 120, 127, 128, 129])
    func pieces(cut: Int) {
        let bytes = (0..<200).map { UInt8($0) }
        // Python: hashlib.sha256(bytes(range(200))).hexdigest()
        let expected = "1901da1c9f699b48f6b2636e65cbf73abf99d0441ef67f5c540a42f7051dec6f"
        #expect(digest([bytes[..<cut], bytes[cut...]]) == expected)
        #expect(digest([bytes[..<cut], [], bytes[cut..<cut + 1], bytes[(cut + 1)...]]) == expected)
    }

    /// The padding fills a block, just fits, or needs another one.
    @Test(
        "lengths around a block",
        arguments: [
            (55, "463eb28e72f82e0a96c0a4cc53690c571281131f672aa229e0d45ae59b598b59"),
            (56, "da2ae4d6b36748f2a318f23e7ab1dfdf45acdc9d049bd80e59de82a60895f562"),
            (63, "29af2686fd53374a36b0846694cc342177e428d1647515f078784d69cdb9e488"),
            (64, "fdeab9acf3710362bd2658cdc9a29e8f9c757fcf9811603a8c447cd1d9151108"),
            (65, "4bfd2c8b6f1eec7a2afeb48b934ee4b2694182027e6d0fc075074f2fabb31781"),
        ])
    func lengths(count: Int, expected: String) {
        // Python: hashlib.sha256(bytes(range(count))).hexdigest()
        #expect(digest([(0..<UInt8(count)).map(\.self)[...]]) == expected)
    }

    @Test func aDigestDoesNotEndTheStream() {
        var hash = SHA256()
        Array("ab".utf8).withUnsafeBytes { hash.update($0) }
        let first = hash.hexadecimalDigest()
        #expect(hash.hexadecimalDigest() == first)
        Array("c".utf8).withUnsafeBytes { hash.update($0) }
        #expect(hash.hexadecimalDigest() == digest([Array("abc".utf8)[...]]))
    }
}
