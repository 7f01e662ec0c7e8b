/// Sites of grouped-query attention, as all families name them.
enum AttentionSites {
    /// Query, key and value with their heads in groups of one key's, then the output projection.
    static func sites(
        _ name: String, layer: Int, hidden: Int, heads: Int, kvHeads: Int, headDim: Int
    ) -> [Site] {
        let (wide, narrow) = (heads * headDim, kvHeads * headDim)
        func shape(_ role: String, _ outputs: Int, _ inputs: Int, _ axis: PatchGrid.Axis)
            -> LinearShape
        {
            LinearShape(
                name: "\(name).\(role)", outputs: outputs, inputs: inputs,
                patches: PatchGrid(axis, count: kvHeads))
        }
        return [
            Site(
                "\(name).qkv_proj", layer: layer, inputs: hidden,
                members: [
                    shape("q_proj", wide, hidden, .outputs),
                    shape("k_proj", narrow, hidden, .outputs),
                    shape("v_proj", narrow, hidden, .outputs),
                ]),
            Site(
                shape("o_proj", hidden, wide, .inputs), layer: layer, addsToResidual: true),
        ]
    }
}
