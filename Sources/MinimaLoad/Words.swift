/// Common English words, of which prompts are made.
enum Words {
    static let all = """
        time year people way day man thing woman life child world school state family student \
        group country problem hand part place case week company system program question work \
        government number night point home water room mother area money story fact month lot \
        right study book eye job word business issue side kind head house service friend father \
        power hour game line end member law car city community name president team minute idea \
        body information back parent face others level office door health person art war history \
        party result change morning reason research girl guy moment air teacher force education \
        foot boy age policy music market sense nation plan college interest death experience \
        effect use class control field development role effort rate heart drug show leader light \
        voice wife police mind price report decision son view relationship town road arm \
        difference value building action season society tax director position player record paper \
        space ground form event official matter center couple site project activity star table \
        need court oil situation cost industry figure street image phone data picture practice \
        piece land product doctor wall patient worker news test movie north love step chance \
        summer winter river garden bird horse ship island mountain forest stone bridge kitchen \
        window letter paint song dance travel season flower animal cloud rain snow wind fire \
        gold silver green blue red white black long short high low old new good great small large \
        early young strong open simple quiet bright dark deep wide warm cold fresh clear walk run \
        see find give tell ask feel become leave put mean keep let begin help talk turn start \
        might play move like live believe hold bring happen write provide sit stand lose pay meet \
        include continue set learn lead understand watch follow stop create speak read allow add \
        spend grow win offer remember consider appear buy wait serve die send expect build stay \
        fall cut reach kill remain suggest raise pass sell require decide pull
        """.split(separator: " ").map(String.init)
}
