"""The fourteen things that customers want, and how they say it.

Two are dangerous: suspected_fraud and legal_threat. Intents share words on purpose, as real
requests do: a lawyer can be named in a refund request, and a charge in a login problem.
"""

# ruff: noqa: E501  a phrase is one line

from __future__ import annotations

from distill.demo.grammar import Intent, phrases

ORDER_STATUS = Intent(
    label="order_status",
    weight=11,
    urgency="normal",
    frames=phrases("""
        [Can|Could] you tell me where my order {order} is [right now|at the moment|]?
        What is the status of [order|my order] {order}? I [bought|ordered] the {item} on {date}.
        I ordered a {item} on {date}, has it [shipped|left your warehouse|been sent] yet?
        The tracking [page|link] for {order} shows nothing, [is it on its way|has it been sent]?
        Any [news|update] on the {item}? It should [arrive|be here] on {day} [if all goes well|].
        Your mail says delivery on {day}. Is {order} still [on schedule|on time]?
        I [never got|did not get] a tracking number for {order}, [can you send it|where do I find it]?
        When [will|does] the {item} I [paid for|bought] on {date} [arrive|get to {city}]?
        [Just checking|Checking in] on {order}, the app [still says|only says] "processing".
        Has my {item} been [packed|handed to {carrier}] [already|yet]? Order {order}.
        {order} - which day [should|do] I stay home for [the delivery|{carrier}]?
        Tracking says the {item} is in {city}. Is that [right|the usual way], and when does it get here?
        My payment for {order} went through on {date}, [so where is it now|what happens next]?
        I can't find {order} in my account [any more|], did the order for the {item} go through?
        How far is my parcel? It is the one with the {item}, [sent|ordered] on {date}.
        The seller says the {item} shipped, {carrier} says it [has not seen it|knows nothing]. Where is it?
    """),
    oblique=phrases("""
        I would love to know if I can stop looking out of the window for {carrier}, {order}.
        Two boxes came from you, the {item} was in neither. Is there a third one [coming|on the way]?
        The map in your app shows {carrier} going round in circles near {city}, is my {item} in that van?
        You refunded part of {order} for one thing that was sold out, is the {item} still coming?
        It says "label printed" [since {date}|]. What does that mean for my {item}?
        I paid for {order}, the money is gone from my card, and now silence. [Is it coming|What is next]?
        Will I have my {item} by {day} or should I [ask the neighbour to wait|be home]?
        Did somebody cancel {order}? It vanished from the app, I [hope|trust] it is still coming.
        I was not home when {carrier} rang. What happens with {order} now?
        My address changed while {order} was on the road, [where does it stand|did it leave already]?
    """),
    details=phrases("""
        The order number is {order}.
        It is not late yet, I just want to [know|plan my week].
        I paid {amount} [for it|with express shipping].
        [Somebody|Someone] has to be home to sign for it.
        It goes to {city}.
        The expected date is {day}, [so there's time|as far as I know].
        I would like to [follow|track] it [online|on my {device}].
        The confirmation mail came on {date}, nothing since.
        I do not want to cancel [it|anything], only to know.
    """),
    asides=phrases("""
        where is my order {order} now?
        can you tell me when the {past} will ship?
        what is the status of the {past} I ordered?
        is the {past} on its way already?
        I would like to know which day the {past} comes.
    """),
)

LATE_DELIVERY = Intent(
    label="late_delivery",
    weight=10,
    urgency="normal",
    frames=phrases("""
        My {item} was [due|promised] on {date} and it is still not here.
        Order {order} is {days} days late [now|already], what is going on?
        You promised delivery by {date}. [Nothing has come|It never came|No parcel, no message].
        I have been waiting {days} days [longer than promised|past the date] for my {item}.
        The {item} should have [arrived|been here] {days} days ago.
        I paid for express shipping and [it took|it has already been] {days} days. Still no {item}.
        {carrier} has moved my delivery date [three times|again and again], {order} is [way|far] overdue.
        Still no {item}! Tracking has not moved [since {date}|for {days} days] and the date has passed.
        Tracking says delivered on {date} but [I got nothing|there was no parcel at my door].
        Why is {order} so late? [It was meant for|It should have come] last {day}.
        The delay on {order} is getting [silly|ridiculous], you said [two|three] days and it's been {days}.
        Your next day delivery took {days} days and counting, where is the {item} I was promised?
        The {item} missed its delivery date again, [this is the third time|how often can that happen]?
        [I waited|I stayed] home all {day} for {carrier} and nobody came, like the week before.
        The new date you gave me for {order} has passed [as well|too].
        Order {order} was sent back to the depot in {city} [again|for no reason] and is now {days} days late.
    """),
    oblique=phrases("""
        It was meant to be under the tree. Now the tree is gone and the {item} is [still|] not there.
        By your own mail of {date} I should be holding a {item} by now.
        {days} days, {order}. [Need I say more|My grandmother walks faster than {carrier}].
        I could have [built|made] the {item} myself in the time you take.
        You charged me for express at once, only the {item} itself takes its time, it was due on {date}.
        Guess who stood at the door on {date} for nothing, [again|once more]? {order}.
        Two days, your page said. That was [{days} days|a lifetime] ago.
        The app says "arrives today". It has said so [for {days} days|since {date}].
        My neighbour ordered the same {item} after me and has it, mine was promised for {date}.
        "Out for delivery" since {date}, did {carrier} move [abroad|to another country]?
    """),
    details=phrases("""
        I paid {amount} for it.
        +high I need the {item} [tomorrow|tonight], we [leave|fly] in the morning.
        +high The party it was bought for is tomorrow.
        +refund If it is not here by {day} I want my money back.
        +refund Either it comes [now|this week] or you refund me the {amount}.
        +refund At least give me the shipping fee back.
        I do not want a refund, I want the {item}.
        {carrier} says it is your fault, you say it is theirs.
        I already asked where it is and got a [robot|standard] reply.
        The order number is {order}.
        +low It was a present for next year anyway, so I can wait.
        My address in {city} is correct, I checked.
    """),
    asides=phrases("""
        the {past} is {days} days late too.
        my other parcel should have been here on {date}.
        I am still waiting for the {past} that was due on {day}.
        the {past} has missed its delivery date.
    """),
)

DAMAGED_ITEM = Intent(
    label="damaged_item",
    weight=9,
    urgency="normal",
    frames=phrases("""
        The {item} [arrived|came] with a [big|deep|long] [mark|scratch|dent] [in it|on one side|].
        My {item} is broken. I opened the box [today|on {date}] and [parts fell out|it was in pieces].
        The box of {order} was [crushed|soaked|torn open] and the {item} inside is [bent|ruined|wet].
        I got the {machine} [yesterday|on {date}] and it [does not turn on|won't start|is dead].
        After {days} days the {machine} [stopped working|went dark|makes a burning smell].
        One [corner|part|piece|side] of the {item} is [missing|snapped off|loose] [right out of the box|].
        What you sent [looks used|is clearly damaged], the {item} has [stains|marks] [all over it|on it].
        The {item} from {order} is [faulty|defective], [one side is loose|it rattles|a part is bent].
        {carrier} dropped the parcel [on my porch|at my feet] and now the {item} is [broken|cracked].
        You sent me a {item} in the wrong colour with a [broken|cracked] [base|cover].
        The replacement {item} is damaged as well, [same crack|same fault|even worse].
        I am [sad|disappointed] to say that the {item} came [smashed|chipped|in two halves].
        There is [glass|plastic] all over the box, the {item} did not survive the trip to {city}.
        The delivery was on time but the {item} is [dented|scratched|in pieces].
        Opened {order} and the {item} was [broken|split] down the middle, [photos attached|see pictures].
        The {machine} was fine for {days} days, now it [is stuck|turns on|shuts off] by itself.
    """),
    oblique=phrases("""
        I opened the box and it was raining pieces of a {item}.
        The {item} rattles like a bag of coins and it [should not|is brand new].
        Pictures attached. [I don't think|Surely] a {item} should have a hole there.
        It smells of burnt plastic and {machine} is a big word for what is left.
        Somebody must have stood on the parcel, [see|look at] the {item}.
        The {item} lasted {days} days, [then it gave up|and then it was over].
        The left side of the {item} is where the right side [should be|belongs] and one screw is gone.
        The app for the {machine} logs in fine, the thing itself is [dead|dark].
        You delivered early, thank you, but only half of the {item} is [whole|in one piece].
        My card went through, the parcel came, and then the {item} came apart in my hands.
    """),
    details=phrases("""
        Please send a [new one|replacement|spare part].
        I'd like a replacement, not a refund.
        +refund I want my money back, not another one.
        +refund Please refund the {amount} [to my card|I paid|].
        +refund Can I send it back and get my money?
        I can send [photos|pictures|a video] [if you need them|].
        It cost me {amount} [in the sale|].
        The order number is {order}.
        +high I need a working one [tonight|by tomorrow], we have guests.
        +high It has sharp edges now and I have a small child, [somebody could get hurt|this is dangerous].
        +low We have an old one, so there is no hurry.
        [Is|Isn't] that covered by the legal warranty?
        The parcel came {days} days late on top of it.
    """),
    asides=phrases("""
        the {past} came with a scratch.
        the box of my {past} was crushed and one part is broken.
        my {past} has fallen apart after {days} days.
        the {past} I got is cracked.
    """),
)

REFUND_REQUEST = Intent(
    label="refund_request",
    weight=10,
    urgency="normal",
    risk=("refund",),
    money=True,
    frames=phrases("""
        I want a refund for the {item} [I returned|I sent back] on {date}.
        I sent the {item} back {days} days ago, where is my money?
        Please refund [order|] {order}, the {item} is not [what I expected|for me|my taste].
        How do I get my money back for [a|the] {item}? It [doesn't suit me|isn't what the page showed].
        You [received|got] my return of {order} on {date} but the {amount} [is not back|never came back].
        I'd like to return the {item} and have the {amount} [back on my card|paid back].
        The refund you promised for {order} [has not arrived|is still missing].
        I am not happy with the {item}, please [pay me back|give me my money back].
        Only half of my refund came, [I paid {amount}|{amount} was the price] for the {item}.
        My wife bought the same {item}, so I'm sending mine back [unopened|] and want the [money|{amount}] back.
        I returned [everything|all of it] from {order}, please [issue|start] the refund [to my wallet|].
        Still waiting for my refund [of {amount}|for the {item}], you said {days} days.
        The price of the {item} dropped [right after I bought it|a day later], [refund|pay] me the difference.
        The return label for the {item} was used on {date}. When [do I see|will I get] my {amount}?
        {item} returned, tracking says you have it [since {date}|], money [not back|still with you].
        Put the {amount} for the {item} back [on my card|in my wallet], I [dropped it off|returned it] on {date}.
    """),
    oblique=phrases("""
        The {item} is back in your warehouse, my {amount} [is too|are still there as well].
        You have both now: the {item} and my money. [One of them is mine|That can't be right].
        I cancelled {order} on {date} and you confirmed it, but my card never saw the {amount} again.
        Your page says money back within {days} days, I am still counting.
        The parcel never came, you agreed it is lost, so [when do I get paid|where is the {amount}]?
        When will I see the {amount} again? {carrier} collected the {item} on {date}.
        I'd rather have the {amount} than this {item}. It is unopened.
        Fourteen days to change my mind, the law says. I changed it, please [pay|return the {amount}].
        The credit note says {amount}, my bank says zero.
        You closed my case but the {amount} for the returned {item} [is open|never came].
    """),
    details=phrases("""
        The order number is {order}.
        The {item} is not damaged, I just don't [like|need] it.
        It came on time, but it is [too small|too heavy|too big] for my place.
        I have the receipt from the post office in {city}.
        My card ending in {card} is still valid.
        I do not want a voucher or a replacement.
        The payment was {amount} [in total|with shipping].
        +high I need that money for my rent tomorrow.
        +legal My lawyer says you have fourteen days to pay.
        +legal Or I will start a chargeback [and report you|].
        +low There is no hurry, as long as it comes some day.
        I checked my account [this morning|on {day}], nothing.
    """),
    asides=phrases("""
        +refund I want my money back for the {past}.
        +refund the refund for the {past} has not come.
        +refund please refund the shipping fee of {order}.
        +refund I sent the {past} back and want the money.
    """),
)

CANCEL_ORDER = Intent(
    label="cancel_order",
    weight=8,
    urgency="normal",
    frames=phrases("""
        Please cancel [order|my order] {order} [before it ships|].
        I want to cancel the {item} I ordered on {date}.
        Can I [still|] cancel {order}? It says ["processing"|not shipped].
        I ordered the wrong {item} [by mistake|], please [stop|cancel] it.
        [I changed my mind|We changed our minds] about the {item}, do not send it.
        I pressed the button twice and have two orders for the {item}, cancel [one of them|{order}].
        There is no cancel button for {order} [in the app|on my {device}|], can you do it for me?
        Please take the {item} off {order} and leave the rest [as it is|].
        My son ordered a {item} for {amount} without asking, please stop the order.
        It has not shipped [after {days} days|], so please cancel {order}.
        Stop {order}, I found the {item} [cheaper|in a shop in {city}] [and bought it|].
        I no longer need the {item}, [cancel it please|please don't ship it|call it off].
        I'd like to call off [my order|the order] of {date}, the number is {order}.
        Cancel my pre-order for the {item}, [I waited long enough|I don't want it any more].
        The order I placed [an hour ago|last night] for a {item} needs to be [cancelled|withdrawn].
    """),
    oblique=phrases("""
        Please don't send the {item}. [We got one as a gift|I found my old one].
        If {order} is still in the house, keep it there.
        I was too quick with the button, {order} should not [have happened|exist].
        My cat ordered a {item} [by walking over my {device}|]. Please undo that before it leaves.
        Is it too late to say no to the {item} [from {date}|]?
        I'd like to return {order} before it even gets here, is it possible to stop it?
        Forget about {order}, [delivery takes too long for me|you take too long]. Do not ship.
        The payment failed first and I bought it elsewhere, so drop {order} [please|before it goes out].
        I got the address wrong twice, simply throw {order} away and I will order anew.
        Take {order} out of the queue, I will not [accept|open the door for] it.
    """),
    details=phrases("""
        The order number is {order}.
        +refund Please put the {amount} back on my card.
        +refund I have paid already, so I need that money back.
        I chose to pay on delivery, so no money has moved.
        Nothing has been charged yet [as far as I see|].
        I paid {amount}.
        Please confirm [by mail|in writing].
        I don't want to close my account, only this order.
        +high It ships tonight, so please stop it right now.
        +high The courier comes today, please catch it before.
        The other order of {date} can stay.
    """),
    asides=phrases("""
        please cancel the {past} I ordered.
        can you stop order {order} before it ships?
        I no longer want the {past}, please cancel it.
        take the {past} off my order.
    """),
)

CHANGE_ADDRESS = Intent(
    label="change_address",
    weight=7,
    urgency="normal",
    frames=phrases("""
        I [am moving|moved] to {street} in {city}, please change my address.
        Please send {order} to {street}, {city} instead.
        I gave the wrong [house number|street|postcode] for {order}, [it should be|the right one is] {street}.
        How do I [change|update] my [delivery|shipping] address [in the app|on the site|]?
        Can {carrier} bring the {item} to my office at {street} [instead|]?
        My account still [has|shows] my old address, the new one is {street}, {city}.
        {order} is going to my old flat [in {city}|], can you [redirect|reroute] it?
        The address on {order} is missing the flat number, [add|it is] {street}, flat {days}.
        I typed {city} [by mistake|as the city], the {item} must go to {street}.
        Please [add|save] a second address to my profile: {street}, {city}.
        We will be away, could you deliver {order} to our neighbour at {street}?
        The site won't accept my new street, {street}. Can you enter it for me?
        Please use {street} for [all my orders|everything] from now on, [we moved|new flat].
        Delete my old address in {city}, parcels keep going there.
        I got married and moved, so [both|] my name and address ({street}) need updating.
    """),
    oblique=phrases("""
        From {date} on you will find me at {street}, {city}.
        The people at my old flat are nice but they should not get my {item}. I'm at {street} now.
        I now live where your map says {city}, [please write that down|please note].
        Bring {order} to my mother at {street}, I'm [in hospital|abroad].
        The {item} is a gift, it should go to {street} in {city} and not to me.
        You have me at number {days}, it is {street}.
        I don't want to cancel {order} but nobody will be home, [take|send] it to {street}.
        My login works but the profile [still lives|is stuck] in {city}, I do not.
        {carrier} asks for a floor, your form [has no field for it|doesn't]. It's the third, {street}.
        The invoice can stay as it is, only the parcel should go to {street}.
    """),
    details=phrases("""
        The order number is {order}.
        It has not shipped yet.
        The old place is empty since {date}.
        My phone number stays the same.
        I do not want to cancel the order, only move it.
        My last parcel got lost because of that.
        The {item} cost {amount}, so I don't want it left at the wrong door.
        +high It ships in an hour, please change it before that.
        +low We only move next spring, so no hurry.
        I can't do it myself, the button is grey.
    """),
    asides=phrases("""
        please change my address to {street}, {city}.
        could you send the {past} to {street} instead?
        my new address is {street}, please update it.
        how do I change the delivery address?
    """),
)

PAYMENT_FAILED = Intent(
    label="payment_failed",
    weight=7,
    urgency="normal",
    money=True,
    frames=phrases("""
        My [card|payment] was declined [when I tried to buy|for] the {item}.
        I [can't|cannot] pay for {order}, [it says|I get] error {code} [every time|].
        The payment page [freezes|hangs|goes blank] [at the last step|after I press pay].
        I tried to top up my wallet with {amount} and it [failed|did not go through].
        Your site [refuses|rejects] my card ending in {card} [at checkout|].
        Checkout [fails|stops] with [code|error] {code}, the {item} is still in my basket.
        Payment failed {days} times [today|in a row], and the card works elsewhere.
        My transfer of {amount} from the wallet [bounced|was rejected].
        The bank approved the payment but your shop [says|shows] it failed, {order}.
        I wanted to pay {amount} with the wallet and it says "not possible" although I have enough.
        The voucher is not accepted and then the payment [crashes|fails with {code}].
        [Why|For what reason] is my card not accepted [any more|]? It worked on {date}.
        The code from my bank comes but your payment page [never asks for it|times out].
        I pressed pay [on my {device}|] and got "{code}", nothing was taken from my account.
        The monthly payment on card {card} did not go through, [how do I pay|can I pay another way]?
    """),
    oblique=phrases("""
        I have money, you have a {item}, and your [last page|checkout] won't let us trade.
        I press the green button and [nothing happens|it turns grey], {amount} stays with me.
        You don't seem to want my {amount}, {code}.
        I get as far as the three digits on the back, then [white page|{code}].
        My bank sent the code, I typed it, your page says [no|try later].
        The {item} sits in my basket since {date} because no card is good enough [for you|].
        I wanted to close the purchase on my {device} and it spins [forever|for minutes].
        Your mail says my order is cancelled because no money came, but I [paid|sent it]. It says {code}.
        Top up: {amount}. Result: {code}. [Again and again|Three times today].
        Card {card} was good for years and now you don't like it.
    """),
    details=phrases("""
        Nothing was charged [as far as I can see|].
        The money is still in my account, [so that is fine|nothing was taken].
        I have enough money on the card.
        I tried another card and another {device}.
        My bank says it is not on their side.
        I can log in fine, only paying does not work.
        The amount is {amount}.
        The order number is {order}.
        +high The offer ends tonight, so I have to pay now.
        +high I am at the till and cannot pay, please help now.
        I do not want to cancel the order, I want to pay it.
    """),
    asides=phrases("""
        my card was declined for the {past}.
        paying for the {past} fails with {code}.
        I could not top up my wallet on {date}.
        the checkout did not take my card.
    """),
)

DOUBLE_CHARGE = Intent(
    label="double_charge",
    weight=7,
    urgency="normal",
    risk=("refund",),
    money=True,
    frames=phrases("""
        I was charged twice for [order|] {order}.
        You took {amount} [two times|twice] for [one|the same] {item}.
        There are two [charges|payments|debits] of {amount} on my card, both from {date}.
        My statement shows {order} [twice|two times], I only bought one {item}.
        Double payment for the {item}: {amount} on {date} and {amount} the day after.
        I paid once but {amount} [left|was taken from] my account [twice|again on {day}].
        The first payment failed, I tried again, and now both were taken.
        Why did you [charge|bill] my card ending in {card} again for {order}?
        The same {amount} was [booked|deducted] from my wallet and from my card.
        [You|Your shop] billed me two times {amount}, please [correct|fix] that.
        I cancelled nothing and ordered nothing new, still a second {amount} for {order} was taken.
        One {item}, two payments. [How|How come]?
        I see a duplicate [charge|transaction] of {amount} [for {order}|from your shop] on {date}.
        Your refund for the first charge came, but then you charged the {amount} again.
        The subscription was [billed|charged] twice this month, on {date} and two days later.
    """),
    oblique=phrases("""
        One {item} in my hall, two times {amount} on my statement.
        It seems I paid for my neighbour's {item} too, {amount} is there twice.
        You liked my {amount} so much that you came back for more [on {date}|].
        {amount} on {date}, {amount} [on {day}|a minute later]. I bought one thing.
        The button hung, I pressed again, and my bank shows it both times.
        I returned nothing and bought one {item}, yet my balance is {amount} short.
        Both my wallet and card {card} paid for {order}, [only one should|why both].
        The checkout said failed, my bank says otherwise, two times.
        Same day, same sum, same shop: {amount} and {amount}.
        The invoice shows {amount} once, my bank shows it [twice|two times].
    """),
    details=phrases("""
        Please pay one of them back.
        I want the second {amount} returned.
        The card ends in {card}.
        Both are from your shop, so it's no stranger.
        I know it is not fraud, the charges say your name.
        The order number is {order}.
        My bank says only you can reverse it.
        The {item} itself came fine.
        +high My account is overdrawn because of it and the rent goes out tomorrow.
        +legal If not, I will dispute it with a chargeback.
        +legal My lawyer has been told.
        +low I can wait until the next statement.
    """),
    asides=phrases("""
        +refund I was charged twice for the {past}.
        +refund my card shows two payments for {order}.
        +refund you took {amount} two times.
    """),
)

LOGIN_PROBLEM = Intent(
    label="login_problem",
    weight=7,
    urgency="normal",
    money=True,
    frames=phrases("""
        I can't log in [on my {device}|to my account|since {date}].
        The password reset mail [never comes|does not arrive|goes nowhere].
        It says my password is wrong, but I [just|only just] changed it.
        My account is locked after {days} tries, [can you unlock it|how do I get in]?
        The security code [is not sent|does not come] to my phone [any more|], I have a new number.
        I forgot my password and no longer have the old [mail address|phone].
        The app [logs me out|throws me out] every [few minutes|time I open it] [on my {device}|].
        Login fails with [error|code] {code} [since the update|since {date}].
        I am locked out of my wallet [after the update|since I changed my phone].
        Your site doesn't know my email [any more|], I've been a customer for {days} years.
        The [fingerprint|face] login stopped working on my {device}.
        I get the code, enter it, and it says [expired|invalid] [every time|].
        How do I get back into my account? The reset link is [dead|broken|expired].
        Can't sign in to pay for the {item}, it says "{code}".
        My account asks for a second factor that I never [set up|wanted].
    """),
    oblique=phrases("""
        Your door is closed to me, it says "{code}" and [nothing else|goodbye].
        I know who I am, your app [does not|has doubts].
        I type what I always type and you say no.
        New phone, and now I am a stranger to you.
        I'd pay for my {item} if you let me in.
        Which mail did I use with you? None of mine [works|is known].
        The six digits come {days} minutes late and are [dead|useless] by then.
        I asked for the link {days} times, my inbox [stays empty|has nothing].
        You blocked me because I travel, [I'm in {city} now|I was in {city}]. It's me, open up.
        I see my orders on the {device} but on the other one it throws me back to the start page.
    """),
    details=phrases("""
        I tried another {device}, same thing.
        I checked the spam folder [too|as well].
        I want to see where my order {order} is.
        There are {amount} in my wallet.
        Nobody else has my password, I just can't get in.
        My brother has the same problem, so it's not only me.
        I don't want a new account, I want mine.
        I need to change my address and can't.
        +high I have to pay my rent from it today.
        +low I only use it once a month, so it can wait.
        It worked on {date}.
    """),
    asides=phrases("""
        I can't log in on my {device}.
        the password reset mail never arrives.
        the app keeps logging me out.
        my login code does not come.
    """),
)

CLOSE_ACCOUNT = Intent(
    label="close_account",
    weight=5,
    urgency="low",
    money=True,
    frames=phrases("""
        Please close my account [as of {date}|and confirm it|].
        I want to delete my account [and all my data|with everything in it].
        How do I [close|delete|cancel] my account [for good|]?
        I no longer [use|need] the wallet, please [shut it down|close it].
        Remove my profile [from your shop|], I [shop elsewhere now|don't buy online any more].
        I'd like to [end|cancel] my membership [at the end of the month|on {date}].
        My father died and his account [should|has to] be closed.
        I have two accounts, please delete the one I opened on {date}.
        There is no button to delete my account [on my {device}|in the app].
        After the {item} I am done with your shop. [Close my account|Delete me].
        Please terminate my contract for the wallet and pay out what is left to card {card}.
        I closed my account on {date}, why do I still [get mails|see it]? Please really delete it.
        Erase everything you have about me, I don't want to be a customer any more.
        I'm leaving. [Please deactivate|Deactivate] my account and my card ending in {card}.
    """),
    oblique=phrases("""
        It was nice with you, but I [would like to be forgotten|am out].
        Take me off your books, [please|for good].
        I don't need the app, the card, or the mails. Please end all of it.
        We are moving to a country you don't serve, so this is goodbye, my account can go.
        Your wallet and I should part ways.
        Please make sure that nobody can log in as me any more, I'm done shopping.
        No refund, no complaint, only [delete|remove] me.
        My late husband still gets your offers. Please take him out of your system.
        I have moved everything to another bank, you can [switch mine off|shut mine].
        The orders are all delivered, the last invoice is paid, now erase me.
    """),
    details=phrases("""
        There are no open orders.
        The wallet is empty.
        All my orders have arrived and are paid.
        I have saved my invoices already.
        Please confirm by mail.
        Nothing bad happened, I just don't need it.
        There were {amount} left in it, I moved that already.
        +legal The GDPR gives you one month, then I complain to the authority.
        +high It renews tonight, so close it before midnight.
        My login still works.
        I don't want any offers to stay.
    """),
    asides=phrases("""
        please close my second account.
        how do I delete my account for good?
        I would like to end my membership.
        please shut down my wallet account.
    """),
)

INVOICE_COPY = Intent(
    label="invoice_copy",
    weight=6,
    urgency="low",
    frames=phrases("""
        [Can|Could] you send me [the invoice|a copy of the invoice|the bill] for {order}?
        I need a receipt for the {item} I bought on {date}.
        Where do I [download|find] my invoices [in the app|for this year|]?
        The invoice for {order} has the wrong [company name|tax number|address] on it.
        Please send the bill for {amount} again, the pdf is [broken|empty|password protected].
        My accountant [wants|needs] the invoice of {date} [with VAT|].
        No invoice came with the {item}, please [mail|send] it.
        I need all receipts from {date} until today for my tax return.
        The receipt for {order} does not show the [VAT|serial number].
        Could you put my [company|employer] on the bill for the {item}?
        I lost the invoice for the {item} and need it for the [warranty|insurance].
        Please send a paper copy of the bill for {order} to {street}.
        Invoice [missing|not received] for my payment of {amount} on {date}.
        The invoice link for {order} gives me error {code}.
        I need proof of the payment of {amount} for my [boss|landlord|insurance].
    """),
    oblique=phrases("""
        The tax office wants to see what I paid for the {item}.
        I need something on paper with {amount} and your stamp on it.
        My boss pays me back for the {item} if I can show him a [document|pdf].
        Where is the sheet with the VAT for {order}?
        I returned nothing and want nothing back, only a paper that says I paid {amount}.
        Your mail of {date} had an attachment that I can't open, the one with the VAT.
        I run a small company and the {item} must go into the books.
        My insurance asks what the stolen {item} cost, do you have it in writing?
        The box of {order} had no paper in it, I need one for the guarantee.
        Please write our company name where mine stands, for the books, {order}.
    """),
    details=phrases("""
        The order number is {order}.
        A pdf is fine.
        The amount was {amount}.
        The payment itself went through fine.
        I do not want a refund, only the paper.
        The {item} has arrived, thank you.
        I can't see it in my account.
        +high My tax deadline is tonight.
        +high The audit is tomorrow morning.
        The old address in {city} is fine.
        I was charged once, that is right.
    """),
    asides=phrases("""
        please send me the invoice for {order}.
        I need a receipt for the {past}.
        where can I download my invoices?
        the bill for the {past} is missing.
    """),
)

PRODUCT_QUESTION = Intent(
    label="product_question",
    weight=8,
    urgency="low",
    frames=phrases("""
        Does the {machine} [come with|include] a [charger|cable|bag|manual]?
        Is the {item} [waterproof|safe for children|made in Europe|heavy]?
        Which size of the {item} do I need [for a small flat|if I am 1.80 m|for two people]?
        Will the {machine} [work with|talk to] my {device}?
        [When will the {item} be|Do you know when the {item} will be] back in stock [in blue|in black|]?
        What is the difference between the {item} and the {past}?
        How long is the warranty on the {item}?
        Can I [return|send back] the {item} if it does not fit? I have not bought it yet.
        Do you ship the {item} to {city}, and what [does it cost|would that be]?
        How do I [clean|set up|charge|update] the {machine} [I got last week|]?
        I am thinking about the {item} for {amount}, is it [any good|worth it|good for kids]?
        The page for the {item} does not say how [heavy|big|old] it is.
        Can I buy a spare [plug|battery|cable] for the {machine}?
        Does the wallet [work|have fees] [abroad|in {city}|for transfers]?
        Is the {item} on offer next week, or will it stay at {amount}?
        What [does the red light on|do the three dots on] the {machine} mean? It works fine otherwise.
    """),
    oblique=phrases("""
        My kitchen is tiny, would the {item} [find a place|fit]?
        Can a child of {days} use the {item}?
        I'm between the {item} and the {past}, what would you take?
        Would the {item} survive [rain|a dog|my kids]?
        Before I pay {amount}: does the {item} really need [an app|an account|a login]?
        If my {item} got damaged in a year, who would repair it?
        What happens if it's late or I want to cancel, do I have such rights with the {item}?
        How many of the {item} do you have left [in {city}|]?
        Is the {item} in your shop the same as the one on TV?
        My friend swears by the {item}, [what is so special|is it as good as people say]?
    """),
    details=phrases("""
        I want to buy it for my mother.
        The page says nothing about it.
        My old one broke after {days} years.
        I would order it on {day}.
        It must arrive before my trip, [but that is in summer|which is months away].
        I saw it for {amount} in another shop.
        Nothing is wrong with it, I like it.
        +high I am in the shop now and have to decide in ten minutes.
        The reviews say it gets damaged in the post.
        I don't have an order yet.
        How do refunds work if I don't like it?
    """),
    asides=phrases("""
        is the {past} waterproof?
        when is the {past} back in stock?
        does the {past} come with a bag?
        how long is the warranty on the {past}?
    """),
)

SUSPECTED_FRAUD = Intent(
    label="suspected_fraud",
    weight=6,
    urgency="high",
    risk=("fraud",),
    money=True,
    frames=phrases("""
        There is a payment of {amount} to {merchant} that I [never made|did not make|don't know].
        I don't recognise [the|a] charge of {amount} [from {date}|to {merchant}].
        Someone [got into|hacked|took over] my account and [ordered a {item}|changed the email].
        My card ending in {card} was used [in {city}|at {merchant}] and I was [at home|nowhere near].
        I got a mail from you asking for my password and [I clicked the link|typed it in].
        Somebody [called|texted] me as your support and I gave them the code, now {amount} is gone.
        My wallet is empty, {amount} went to {merchant} [last night|on {date}] and it wasn't me.
        An order for a {item} to {city} is in my account, I [never placed it|know nothing of it].
        I can't log in because somebody changed my password and phone number, [and money is missing|it was not me].
        I [lost|was robbed of] my phone and now there are transfers I did not make.
        A stranger is [buying things|paying] with my wallet, [{amount} so far|please look].
        Got a code by text [without asking|at 3 am] and then {amount} left my account to {merchant}.
        Is this mail from you? It wants my card number to ["release"|unlock] order {order}.
        I see {days} [small|strange|unknown] payments to {merchant} that are not mine.
        I think my card details were stolen [after I bought the {item}|on a fake page of your shop].
        The seller of the {item} asked me to pay outside the shop, took {amount} and is gone.
    """),
    oblique=phrases("""
        I was asleep, my wallet was shopping at {merchant}.
        Who is {merchant} and why do they get {amount} from me?
        You thanked me for buying a {item} in {city}. I have never been to {city}.
        The nice man on the phone knew my name and my balance. Afterwards it was {amount} less.
        My email in the profile is now one with a foreign ending, [I did not do that|not mine].
        A text said my parcel was stuck, I paid a small fee, now {merchant} takes more.
        Your "employee" wanted me to install something on my {device} and moved {amount} to safety.
        {amount} to {merchant}, {amount} to somebody else. Not me.
        My late parcel is one thing, but the invoice shows a {item} I never bought, sent to {city}.
        I got a bill for an account in {city} that I never opened.
    """),
    details=phrases("""
        Please [block|freeze] my [card|account|wallet].
        My card ends in {card}.
        +refund I want this [charge|payment] [reversed|paid back].
        +refund Please return the {amount} [to me|].
        Nobody else has my {device}.
        I have changed my password [meanwhile|].
        I never ordered anything from {merchant}.
        It says it was done from {city}.
        I have reported it to the police.
        +legal My bank told me to start a chargeback, [which I will do|so I do].
        It was not my family either, I asked.
        The order number they used is {order}.
    """),
)

LEGAL_THREAT = Intent(
    label="legal_threat",
    weight=4,
    urgency="high",
    risk=("legal",),
    money=True,
    frames=phrases("""
        I have [instructed|hired|spoken to] a lawyer about [order|] {order}.
        This is my last [letter|message] before I go to [court|small claims court] over the {item}.
        I am filing a complaint with the [ombudsman|regulator|consumer authority] about [you|your wallet].
        You will hear from my [solicitor|lawyer|attorney] [about the {amount}|because of {order}|].
        I [hereby|] give you until {date} to [answer|comply], then I [sue|take legal action].
        You [shared|sold|leaked] my data, that is a [GDPR|data protection] breach and I [report|will report] it.
        My bank is starting a chargeback for {amount}, and my lawyer takes care of the rest.
        Your terms are [illegal|unlawful], I have sent them to the [consumer protection office|regulator].
        I asked for my personal data on {date}, the legal deadline has passed, [so I complain to|I have told] the authority.
        Notice before action: {order}, [{item}, |]deadline {date}, after that the court decides.
        After {days} unanswered mails about the {item} I am taking you to court.
        The {item} hurt my [child|hand] and my lawyer will [claim|ask for] damages.
        Selling a {item} like this is against the law, expect a letter from my [lawyer|attorney].
        We will see each other in court [in {city}|] if {order} is not settled by {date}.
        I am [preparing|going to file] a claim against your company, [please name|who is] your legal contact?
    """),
    oblique=phrases("""
        Please name the person who will [receive|accept] the papers.
        My sister is a judge and says I should not wait [longer|any more], the claim is written.
        The next letter about {order} has a stamp of the court on it.
        You had your chance, now others in robes will read about the {item}.
        The ombudsman was very interested in what you did with {order}.
        I have a right to my data and you ignore it, so the authority has my complaint of {date}.
        My solicitor charges less per hour than the {amount} you keep, so let's go.
        Paragraph by paragraph, my lawyer found {days} breaches in your terms.
        I will not discuss the refund or the {item} again, speak to my attorney.
        Consider yourselves served, [deadline|the date is] {date}.
    """),
    details=phrases("""
        All further contact goes through {name}.
        +refund Until then I expect the {amount} back.
        +refund Pay me back and I will stop this.
        I do not want a voucher, and I am done talking.
        I have kept every mail [since {date}|].
        My legal insurance covers this.
        This is not an empty threat.
        The order number is {order}.
        I was a good customer for {days} years.
        The sum in question is {amount}.
        Other customers have the same problem and will join me.
        You had {days} days to fix it.
    """),
)

INTENTS = (
    ORDER_STATUS,
    LATE_DELIVERY,
    DAMAGED_ITEM,
    REFUND_REQUEST,
    CANCEL_ORDER,
    CHANGE_ADDRESS,
    PAYMENT_FAILED,
    DOUBLE_CHARGE,
    LOGIN_PROBLEM,
    CLOSE_ACCOUNT,
    INVOICE_COPY,
    PRODUCT_QUESTION,
    SUSPECTED_FRAUD,
    LEGAL_THREAT,
)
DANGEROUS = frozenset({SUSPECTED_FRAUD.label, LEGAL_THREAT.label})
