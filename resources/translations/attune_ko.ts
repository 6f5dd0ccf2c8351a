<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE TS>
<TS version="2.1" language="ko" sourcelanguage="en">
<context>
    <name>ChatService</name>
    <message>
        <source>No model is loaded, so there is no answer yet.</source>
        <translation>불러온 모델이 없어서 아직 답변이 없어요.</translation>
    </message>
    <message>
        <source>Your message is kept. Restart the model and ask for the answer again.</source>
        <translation>메시지는 보관했어요. 모델을 다시 시작한 뒤 답변을 다시 요청해 주세요.</translation>
    </message>
    <message>
        <source>Summary of the conversation so far:</source>
        <translation>지금까지의 대화 요약:</translation>
    </message>
    <message>
        <source>Summarise our conversation up to here in a few sentences. Keep names, numbers, wishes and decisions. Write only the summary.</source>
        <translation>여기까지의 대화를 몇 문장으로 요약해 주세요. 이름, 숫자, 바라는 점, 정한 것은 그대로 남겨 주세요. 요약만 써 주세요.</translation>
    </message>
</context>
<context>
    <name>CollectedCard</name>
    <message>
        <source>liked</source>
        <translation>좋아요</translation>
    </message>
    <message>
        <source>not liked</source>
        <translation>별로예요</translation>
    </message>
    <message>
        <source>comparisons</source>
        <translation>비교</translation>
    </message>
    <message>
        <source>corrections</source>
        <translation>고쳐 쓰기</translation>
    </message>
    <message>
        <source>What your model can learn from</source>
        <translation>모델이 배울 수 있는 것</translation>
    </message>
    <message>
        <source>Good answers to imitate</source>
        <translation>따라 배울 좋은 답변</translation>
    </message>
    <message>
        <source>Judgements that show your taste</source>
        <translation>취향을 보여 주는 평가</translation>
    </message>
    <message>
        <source>{0}, enough</source>
        <translation>{0}개, 충분해요</translation>
    </message>
    <message>
        <source>{0} of {1}</source>
        <translation>{0} / {1}</translation>
    </message>
    <message>
        <source>Your model will imitate the good answers, learn your taste from your judgements, and then practise until it meets it more often.</source>
        <translation>모델이 좋은 답변을 따라 배우고, 평가에서 취향을 익힌 다음, 취향에 더 자주 맞을 때까지 연습해요.</translation>
    </message>
    <message>
        <source>Thumbs up and down, or comparisons, would show your taste as well.</source>
        <translation>‘좋아요’와 ‘별로예요’가 모두 있거나 비교를 하면 취향도 익힐 수 있어요.</translation>
    </message>
    <message>
        <source>Your model will imitate the good answers.</source>
        <translation>모델이 좋은 답변을 따라 배워요.</translation>
    </message>
    <message numerus="yes">
        <source>With %n more judgement(s) it can also learn your taste and practise.</source>
        <translation>
            <numerusform>평가가 %n개 더 모이면 취향을 익히고 연습도 할 수 있어요.</numerusform>
        </translation>
    </message>
    <message>
        <source>Your model will learn your taste and practise.</source>
        <translation>모델이 취향을 익히고 연습해요.</translation>
    </message>
    <message numerus="yes">
        <source>With %n more good answer(s) it can also imitate them.</source>
        <translation>
            <numerusform>좋은 답변이 %n개 더 모이면 따라 배울 수도 있어요.</numerusform>
        </translation>
    </message>
    <message numerus="yes">
        <source>Like or correct %n more answer(s), and your model can learn from them.</source>
        <translation>
            <numerusform>답변 %n개에 좋아요를 더 누르거나 고쳐 쓰면 모델이 배울 수 있어요.</numerusform>
        </translation>
    </message>
</context>
<context>
    <name>ComparisonView</name>
    <message>
        <source>Comparison of two messages</source>
        <translation>두 메시지 비교</translation>
    </message>
    <message>
        <source>Which one do you like better?</source>
        <translation>어느 쪽이 더 좋은가요?</translation>
    </message>
    <message>
        <source>The order is random. Keys: 1, 2, = both good, 0 both bad.</source>
        <translation>순서는 무작위예요. 키: 1, 2, = 둘 다 좋음, 0 둘 다 나쁨.</translation>
    </message>
    <message>
        <source>{0} is better ({1})</source>
        <translation>{0}가 더 좋음 ({1})</translation>
    </message>
    <message>
        <source>{0} is better</source>
        <translation>{0}가 더 좋음</translation>
    </message>
    <message>
        <source>Both good (=)</source>
        <translation>둘 다 좋음 (=)</translation>
    </message>
    <message>
        <source>Both bad (0)</source>
        <translation>둘 다 나쁨 (0)</translation>
    </message>
    <message>
        <source>Skip</source>
        <translation>건너뛰기</translation>
    </message>
    <message>
        <source>Go on without a choice</source>
        <translation>고르지 않고 계속하기</translation>
    </message>
</context>
<context>
    <name>CompletionCard</name>
    <message>
        <source>Save</source>
        <translation>저장</translation>
    </message>
    <message>
        <source>What would you have wanted to read?</source>
        <translation>어떤 답변을 읽고 싶었나요?</translation>
    </message>
    <message>
        <source>The model stopped while writing this.</source>
        <translation>모델이 이 답변을 쓰다가 멈췄어요.</translation>
    </message>
    <message>
        <source>The model stopped before it wrote anything.</source>
        <translation>모델이 아무것도 쓰기 전에 멈췄어요.</translation>
    </message>
    <message>
        <source>The model&apos;s message</source>
        <translation>모델의 메시지</translation>
    </message>
    <message>
        <source>Good: write more like this</source>
        <translation>좋아요: 이런 답변을 더</translation>
    </message>
    <message>
        <source>Not good: write less like this</source>
        <translation>별로예요: 이런 답변은 덜</translation>
    </message>
    <message>
        <source>Copy</source>
        <translation>복사</translation>
    </message>
    <message>
        <source>Write it again</source>
        <translation>다시 쓰기</translation>
    </message>
    <message>
        <source>Write two and compare them</source>
        <translation>두 개를 쓰고 비교하기</translation>
    </message>
    <message>
        <source>Go on</source>
        <translation>이어서 쓰기</translation>
    </message>
    <message>
        <source>Your correction is kept</source>
        <translation>고쳐 쓴 답변을 보관했어요</translation>
    </message>
    <message>
        <source>Your correction is kept. Open it.</source>
        <translation>고쳐 쓴 답변을 보관했어요. 열어 보기</translation>
    </message>
    <message>
        <source>The answer is not finished.</source>
        <translation>답변이 끝나지 않았어요.</translation>
    </message>
    <message>
        <source>The answer is empty.</source>
        <translation>답변이 비어 있어요.</translation>
    </message>
</context>
<context>
    <name>Composer</name>
    <message>
        <source>Your message</source>
        <translation>내 메시지</translation>
    </message>
    <message>
        <source>Write a message</source>
        <translation>메시지를 입력하세요</translation>
    </message>
    <message>
        <source>Compare two</source>
        <translation>둘 비교</translation>
    </message>
    <message>
        <source>Ask for two answers and choose the better one. It teaches your model most.</source>
        <translation>답변 두 개를 받아 더 나은 것을 골라요. 모델이 가장 많이 배우는 방법이에요.</translation>
    </message>
    <message>
        <source>Stop</source>
        <translation>중지</translation>
    </message>
    <message>
        <source>Send</source>
        <translation>보내기</translation>
    </message>
    <message>
        <source>Enter</source>
        <translation>Enter</translation>
    </message>
</context>
<context>
    <name>ContextMarkRow</name>
    <message>
        <source>The model reads this summary of the messages above:</source>
        <translation>모델은 위의 메시지 대신 이 요약을 읽어요:</translation>
    </message>
    <message numerus="yes">
        <source>The model no longer sees the %n message(s) above.</source>
        <translation>
            <numerusform>모델은 이제 위의 메시지 %n개를 보지 못해요.</numerusform>
        </translation>
    </message>
</context>
<context>
    <name>ContextMeter</name>
    <message>
        <source>Of {0} tokens, {1} are used, {2} are kept for the answer and {3} are free.</source>
        <translation>토큰 {0}개 가운데 {1}개를 썼고, {2}개는 답변용으로 남겨 두었고, {3}개가 비어 있어요.</translation>
    </message>
    <message numerus="yes">
        <source>%n earlier message(s) no longer fit.</source>
        <translation>
            <numerusform>앞선 메시지 %n개는 더 이상 들어가지 않아요.</numerusform>
        </translation>
    </message>
    <message>
        <source>Context</source>
        <translation>컨텍스트</translation>
    </message>
</context>
<context>
    <name>ConversationDelegate</name>
    <message>
        <source>Title of the conversation</source>
        <translation>대화 제목</translation>
    </message>
</context>
<context>
    <name>ConversationList</name>
    <message>
        <source>Earlier</source>
        <translation>이전</translation>
    </message>
    <message>
        <source>Today</source>
        <translation>오늘</translation>
    </message>
    <message>
        <source>Yesterday</source>
        <translation>어제</translation>
    </message>
    <message>
        <source>This week</source>
        <translation>이번 주</translation>
    </message>
    <message>
        <source>New conversation</source>
        <translation>새 대화</translation>
    </message>
    <message>
        <source>Rename</source>
        <translation>이름 바꾸기</translation>
    </message>
    <message>
        <source>Delete</source>
        <translation>삭제</translation>
    </message>
    <message>
        <source>Search</source>
        <translation>검색</translation>
    </message>
    <message>
        <source>Search in all conversations</source>
        <translation>모든 대화에서 검색</translation>
    </message>
    <message>
        <source>Conversations</source>
        <translation>대화 목록</translation>
    </message>
    <message>
        <source>Nothing found</source>
        <translation>찾은 것이 없어요</translation>
    </message>
</context>
<context>
    <name>ConversationView</name>
    <message>
        <source>Two answers wait for your choice.</source>
        <translation>답변 두 개가 선택을 기다리고 있어요.</translation>
    </message>
</context>
<context>
    <name>CorrectionEditor</name>
    <message>
        <source>Cancel</source>
        <translation>취소</translation>
    </message>
    <message>
        <source>Ctrl+Enter saves, Esc cancels</source>
        <translation>Ctrl+Enter로 저장, Esc로 취소</translation>
    </message>
</context>
<context>
    <name>EmptyState</name>
    <message>
        <source>What would you like to talk about?</source>
        <translation>무슨 이야기를 할까요?</translation>
    </message>
    <message>
        <source>Everything stays on this computer. Rate what you read, and Attune learns.</source>
        <translation>모든 것이 이 컴퓨터에 남아요. 답변을 평가하면 Attune이 배워요.</translation>
    </message>
    <message>
        <source>Tell me a short story about a lighthouse</source>
        <translation>등대에 대한 짧은 이야기를 들려줘</translation>
    </message>
    <message>
        <source>What can you do?</source>
        <translation>너는 뭘 할 수 있어?</translation>
    </message>
    <message>
        <source>Give me three ideas for a rainy Sunday</source>
        <translation>비 오는 일요일에 할 일 세 가지 알려줘</translation>
    </message>
    <message>
        <source>Say something to cheer me up</source>
        <translation>기운 나는 말 한마디 해 줘</translation>
    </message>
</context>
<context>
    <name>EngineService</name>
    <message>
        <source>No model is loaded, so there is no answer yet.</source>
        <translation>불러온 모델이 없어서 아직 답변이 없어요.</translation>
    </message>
    <message>
        <source>Restart the model and ask for the answer again.</source>
        <translation>모델을 다시 시작한 뒤 답변을 다시 요청해 주세요.</translation>
    </message>
    <message>
        <source>This model has ended the engine twice while it was being loaded.</source>
        <translation>이 모델은 불러오는 동안 엔진을 두 번 멈추게 했어요.</translation>
    </message>
    <message>
        <source>The model before is used again.</source>
        <translation>이전 모델을 다시 사용해요.</translation>
    </message>
    <message>
        <source>Choose another model version.</source>
        <translation>다른 모델 버전을 선택해 주세요.</translation>
    </message>
    <message>
        <source>What was written is kept; the model is being loaded again.</source>
        <translation>쓰던 내용은 보관했어요. 모델을 다시 불러오고 있어요.</translation>
    </message>
    <message>
        <source>The model is not loaded again by itself. Choose another version.</source>
        <translation>모델을 자동으로 다시 불러오지 않아요. 다른 버전을 선택해 주세요.</translation>
    </message>
</context>
<context>
    <name>FailureCard</name>
    <message>
        <source>Nothing is lost: you can resume the training where it was.</source>
        <translation>잃은 것은 없어요. 멈춘 곳부터 학습을 이어 갈 수 있어요.</translation>
    </message>
    <message>
        <source>Your model stays as it was.</source>
        <translation>모델은 그대로예요.</translation>
    </message>
    <message>
        <source>The training was stopped.</source>
        <translation>학습을 중지했어요.</translation>
    </message>
    <message>
        <source>There was too little feedback to learn from.</source>
        <translation>배우기에는 피드백이 너무 적었어요.</translation>
    </message>
    <message>
        <source>Rate, compare or correct some more answers, and train again.</source>
        <translation>답변을 조금 더 평가하거나 비교하거나 고쳐 쓴 뒤 다시 학습해 주세요.</translation>
    </message>
    <message>
        <source>The computer ran out of memory.</source>
        <translation>컴퓨터의 메모리가 부족했어요.</translation>
    </message>
    <message>
        <source>Close other programs, then resume the training.</source>
        <translation>다른 프로그램을 닫은 뒤 학습을 이어 가세요.</translation>
    </message>
    <message>
        <source>The disk is full.</source>
        <translation>디스크가 가득 찼어요.</translation>
    </message>
    <message>
        <source>Make some room, for example by removing old versions, then resume.</source>
        <translation>오래된 버전을 지우는 등 공간을 만든 뒤 이어 가세요.</translation>
    </message>
    <message>
        <source>Close other programs, then train again.</source>
        <translation>다른 프로그램을 닫은 뒤 다시 학습해 주세요.</translation>
    </message>
    <message>
        <source>Make some room, for example by removing old versions, then train again.</source>
        <translation>오래된 버전을 지우는 등 공간을 만든 뒤 다시 학습해 주세요.</translation>
    </message>
    <message>
        <source>The training lost its way and was ended.</source>
        <translation>학습이 길을 벗어나서 끝냈어요.</translation>
    </message>
    <message>
        <source>More feedback makes the next training steadier.</source>
        <translation>피드백이 더 많으면 다음 학습이 더 안정돼요.</translation>
    </message>
    <message>
        <source>The new version was not better, so it is not offered.</source>
        <translation>새 버전이 더 낫지 않아서 권하지 않아요.</translation>
    </message>
    <message>
        <source>More comparisons help most.</source>
        <translation>비교를 더 하면 가장 도움이 돼요.</translation>
    </message>
    <message>
        <source>The feedback or the model could not be read.</source>
        <translation>피드백이나 모델을 읽지 못했어요.</translation>
    </message>
    <message>
        <source>The training ended unexpectedly.</source>
        <translation>학습이 예기치 않게 끝났어요.</translation>
    </message>
    <message>
        <source>Close</source>
        <translation>닫기</translation>
    </message>
</context>
<context>
    <name>Figures</name>
    <message>
        <source>Loss on known text</source>
        <translation>이미 본 글의 손실</translation>
    </message>
    <message>
        <source>Agrees with your choices</source>
        <translation>내 선택과 일치</translation>
    </message>
    <message>
        <source>Nearer to your taste</source>
        <translation>내 취향에 더 가까움</translation>
    </message>
    <message>
        <source>Length of answers</source>
        <translation>답변 길이</translation>
    </message>
    <message>
        <source>Distance from the original model</source>
        <translation>원래 모델과의 거리</translation>
    </message>
    <message>
        <source>Loss on unseen text</source>
        <translation>처음 보는 글의 손실</translation>
    </message>
    <message>
        <source>Variety of words</source>
        <translation>낱말의 다양함</translation>
    </message>
    <message>
        <source>Compared with the original model, on prompts this version practised with</source>
        <translation>원래 모델과 비교한 값이에요. 이 버전이 연습한 질문으로 쟀어요</translation>
    </message>
    <message>
        <source>Compared with the original model</source>
        <translation>원래 모델과 비교한 값이에요</translation>
    </message>
    <message>
        <source>{0} nats</source>
        <translation>{0} nats</translation>
    </message>
</context>
<context>
    <name>Header</name>
    <message>
        <source>New conversation</source>
        <translation>새 대화</translation>
    </message>
    <message>
        <source>Show or hide the conversations</source>
        <translation>대화 목록 보이기/숨기기</translation>
    </message>
    <message>
        <source>More about this conversation</source>
        <translation>이 대화 더 보기</translation>
    </message>
    <message>
        <source>Rename</source>
        <translation>이름 바꾸기</translation>
    </message>
    <message>
        <source>Delete</source>
        <translation>삭제</translation>
    </message>
    <message>
        <source>When it gets too long for the model</source>
        <translation>대화가 모델에 비해 너무 길어지면</translation>
    </message>
    <message>
        <source>Leave out the oldest messages</source>
        <translation>가장 오래된 메시지 빼기</translation>
    </message>
    <message>
        <source>Summarise the oldest messages</source>
        <translation>가장 오래된 메시지 요약하기</translation>
    </message>
    <message>
        <source>Stop and tell me</source>
        <translation>멈추고 알려 주기</translation>
    </message>
    <message>
        <source>Learning</source>
        <translation>학습</translation>
    </message>
    <message>
        <source>Show or hide the learning panel</source>
        <translation>학습 패널 보이기/숨기기</translation>
    </message>
</context>
<context>
    <name>LearningPage</name>
    <message>
        <source>Discard this training?</source>
        <translation>이 학습을 버릴까요?</translation>
    </message>
    <message>
        <source>It cannot be resumed after that. Your feedback stays, for the next one.</source>
        <translation>버리면 다시 이어 갈 수 없어요. 피드백은 남아서 다음 학습에 쓰여요.</translation>
    </message>
    <message>
        <source>Discard</source>
        <translation>버리기</translation>
    </message>
    <message>
        <source>Keep</source>
        <translation>유지</translation>
    </message>
    <message>
        <source>Train my model</source>
        <translation>내 모델 학습하기</translation>
    </message>
    <message>
        <source>You can go on chatting. Your current model stays until you decide.</source>
        <translation>학습하는 동안에도 대화할 수 있어요. 결정하기 전까지 지금 모델은 그대로예요.</translation>
    </message>
</context>
<context>
    <name>LearningPanel</name>
    <message>
        <source>Learning</source>
        <translation>학습</translation>
    </message>
    <message>
        <source>Versions</source>
        <translation>버전</translation>
    </message>
    <message>
        <source>Learning and versions</source>
        <translation>학습과 버전</translation>
    </message>
</context>
<context>
    <name>LearningService</name>
    <message>
        <source>A training is going on already.</source>
        <translation>이미 학습하고 있어요.</translation>
    </message>
    <message>
        <source>There is too little feedback to learn from.</source>
        <translation>배우기에는 피드백이 너무 적어요.</translation>
    </message>
    <message numerus="yes">
        <source>Like or correct %n more answer(s) first.</source>
        <translation>
            <numerusform>먼저 답변 %n개에 좋아요를 더 누르거나 고쳐 써 주세요.</numerusform>
        </translation>
    </message>
    <message>
        <source>There is not enough space on the disk for a training.</source>
        <translation>학습하기에는 디스크 공간이 부족해요.</translation>
    </message>
    <message>
        <source>Free about {0} MB.</source>
        <translation>약 {0} MB를 비워 주세요.</translation>
    </message>
    <message>
        <source>Personal model {0}</source>
        <translation>내 모델 {0}</translation>
    </message>
    <message>
        <source>There is no training to go on with.</source>
        <translation>이어 갈 학습이 없어요.</translation>
    </message>
    <message>
        <source>Choose a version that is not the active one.</source>
        <translation>지금 쓰고 있지 않은 버전을 선택해 주세요.</translation>
    </message>
    <message>
        <source>These two versions come from different models and cannot be compared.</source>
        <translation>두 버전은 서로 다른 모델에서 만들어져서 비교할 수 없어요.</translation>
    </message>
    <message>
        <source>Use one of them, or train a version of the model in use.</source>
        <translation>둘 중 하나를 쓰거나, 지금 쓰는 모델로 새 버전을 학습시켜 주세요.</translation>
    </message>
    <message>
        <source>Chat a little first: the comparison uses your own prompts.</source>
        <translation>먼저 조금 대화해 주세요. 비교에는 내가 보낸 메시지를 써요.</translation>
    </message>
    <message>
        <source>Both versions gave the same answers, so there is nothing to choose.</source>
        <translation>두 버전의 답변이 같아서 고를 것이 없어요.</translation>
    </message>
    <message>
        <source>Chat about something else first, or train with more feedback.</source>
        <translation>먼저 다른 이야기를 나누거나, 피드백을 더 모아 학습시켜 주세요.</translation>
    </message>
</context>
<context>
    <name>LinkQuestion</name>
    <message>
        <source>Open this link?</source>
        <translation>이 링크를 열까요?</translation>
    </message>
    <message>
        <source>This link leads to {0}.</source>
        <translation>{0}(으)로 이어지는 링크예요.</translation>
    </message>
    <message>
        <source>Open in the browser</source>
        <translation>브라우저에서 열기</translation>
    </message>
    <message>
        <source>Copy the address</source>
        <translation>주소 복사</translation>
    </message>
    <message>
        <source>Cancel</source>
        <translation>취소</translation>
    </message>
</context>
<context>
    <name>MainWindow</name>
    <message>
        <source>A training is running.</source>
        <translation>학습하고 있어요.</translation>
    </message>
    <message>
        <source>If Attune closes, the training stops. You can resume it next time.</source>
        <translation>Attune을 닫으면 학습이 멈춰요. 다음에 이어 갈 수 있어요.</translation>
    </message>
    <message>
        <source>Stop and close</source>
        <translation>멈추고 닫기</translation>
    </message>
    <message>
        <source>Keep open</source>
        <translation>열어 두기</translation>
    </message>
    <message>
        <source>Close other programs, choose a smaller model, or load it anyway.</source>
        <translation>다른 프로그램을 닫거나, 더 작은 모델을 고르거나, 그래도 불러올 수 있어요.</translation>
    </message>
    <message>
        <source>Load anyway</source>
        <translation>그래도 불러오기</translation>
    </message>
    <message>
        <source>It is not loaded by itself any more.</source>
        <translation>이제 저절로 불러오지 않아요.</translation>
    </message>
    <message>
        <source>Try again</source>
        <translation>다시 시도</translation>
    </message>
    <message>
        <source>No model is loaded now.</source>
        <translation>지금은 불러온 모델이 없어요.</translation>
    </message>
    <message>
        <source>Load it after all</source>
        <translation>역시 불러오기</translation>
    </message>
    <message>
        <source>The model before is used instead.</source>
        <translation>대신 이전 모델을 사용해요.</translation>
    </message>
    <message>
        <source>Use the bundled model</source>
        <translation>기본 모델 사용</translation>
    </message>
    <message>
        <source>The model is not running.</source>
        <translation>모델이 실행되고 있지 않아요.</translation>
    </message>
    <message>
        <source>Restart model</source>
        <translation>모델 다시 시작</translation>
    </message>
    <message>
        <source>Noted: you like this answer.</source>
        <translation>이 답변에 좋아요를 남겼어요.</translation>
    </message>
    <message>
        <source>Noted: you do not like this answer.</source>
        <translation>이 답변에 별로예요를 남겼어요.</translation>
    </message>
    <message>
        <source>Your correction is kept. The model can learn from it.</source>
        <translation>고쳐 쓴 답변을 보관했어요. 모델이 여기서 배울 수 있어요.</translation>
    </message>
    <message>
        <source>Your choice is kept.</source>
        <translation>선택을 보관했어요.</translation>
    </message>
    <message>
        <source>The rating was taken back.</source>
        <translation>평가를 취소했어요.</translation>
    </message>
    <message>
        <source>The correction was taken back.</source>
        <translation>고쳐 쓴 답변을 취소했어요.</translation>
    </message>
    <message>
        <source>Undo</source>
        <translation>실행 취소</translation>
    </message>
    <message>
        <source>Settings</source>
        <translation>설정</translation>
    </message>
    <message>
        <source>Keyboard shortcuts</source>
        <translation>단축키</translation>
    </message>
</context>
<context>
    <name>MessageView</name>
    <message>
        <source>Copy the whole message</source>
        <translation>메시지 전체 복사</translation>
    </message>
    <message>
        <source>Copy</source>
        <translation>복사</translation>
    </message>
    <message>
        <source>Copy this code</source>
        <translation>이 코드 복사</translation>
    </message>
    <message>
        <source>Copied</source>
        <translation>복사했어요</translation>
    </message>
</context>
<context>
    <name>ModelStatus</name>
    <message>
        <source>{0} · ready</source>
        <translation>{0} · 준비됨</translation>
    </message>
    <message>
        <source>Ready</source>
        <translation>준비됨</translation>
    </message>
    <message>
        <source>The model is not running</source>
        <translation>모델이 실행되고 있지 않아요</translation>
    </message>
    <message>
        <source>Checking the model&apos;s file… {0} %</source>
        <translation>모델 파일을 확인하는 중… {0}%</translation>
    </message>
    <message>
        <source>Loading the model… {0} %</source>
        <translation>모델을 불러오는 중… {0}%</translation>
    </message>
    <message>
        <source>Loading the model…</source>
        <translation>모델을 불러오는 중…</translation>
    </message>
    <message>
        <source>Restart model</source>
        <translation>모델 다시 시작</translation>
    </message>
    <message>
        <source>Cancel</source>
        <translation>취소</translation>
    </message>
    <message>
        <source>Stop loading the model</source>
        <translation>모델 불러오기 중지</translation>
    </message>
    <message>
        <source>It takes about {0} MB of memory: weights {1} + context {2} + work space {3}.</source>
        <translation>메모리를 약 {0} MB 사용해요: 가중치 {1} + 문맥 {2} + 작업 공간 {3}.</translation>
    </message>
</context>
<context>
    <name>NotesCard</name>
    <message>
        <source>About this training</source>
        <translation>이번 학습에서 알아 둘 점</translation>
    </message>
</context>
<context>
    <name>Notice</name>
    <message>
        <source>Close this notice</source>
        <translation>이 알림 닫기</translation>
    </message>
</context>
<context>
    <name>OfferCard</name>
    <message>
        <source>Your model has learned</source>
        <translation>모델이 배웠어요</translation>
    </message>
    <message>
        <source>“{0}” is ready. Compare it with your current model without knowing which is which, then decide.</source>
        <translation>‘{0}’ 준비가 끝났어요. 어느 쪽인지 모르는 채로 지금 모델과 비교한 뒤 결정해 보세요.</translation>
    </message>
    <message>
        <source>Compare blind</source>
        <translation>블라인드 비교</translation>
    </message>
    <message>
        <source>Use it now</source>
        <translation>지금 사용</translation>
    </message>
    <message>
        <source>Not now</source>
        <translation>지금은 안 함</translation>
    </message>
    <message>
        <source>If you decide later, you find it under Versions.</source>
        <translation>나중에 정해도 ‘버전’ 탭에서 찾을 수 있어요.</translation>
    </message>
</context>
<context>
    <name>PrivacyBadge</name>
    <message>
        <source>On this computer only</source>
        <translation>이 컴퓨터에서만</translation>
    </message>
    <message>
        <source>Conversations, feedback and training stay here. Nothing is sent anywhere.</source>
        <translation>대화와 피드백, 학습은 모두 이 컴퓨터에 남아요. 어디에도 보내지 않아요.</translation>
    </message>
</context>
<context>
    <name>ReasoningView</name>
    <message>
        <source>What the model thought</source>
        <translation>모델이 생각한 내용</translation>
    </message>
    <message>
        <source>Thinking…</source>
        <translation>생각하는 중…</translation>
    </message>
    <message>
        <source>Thought for a moment</source>
        <translation>잠깐 생각함</translation>
    </message>
    <message>
        <source>Thought for {0} s</source>
        <translation>{0}초 동안 생각함</translation>
    </message>
    <message>
        <source>Thought for {0} min {1} s</source>
        <translation>{0}분 {1}초 동안 생각함</translation>
    </message>
    <message>
        <source>Hide it</source>
        <translation>접기</translation>
    </message>
    <message>
        <source>Show it</source>
        <translation>펼치기</translation>
    </message>
</context>
<context>
    <name>ResumeCard</name>
    <message>
        <source>A training is unfinished</source>
        <translation>끝나지 않은 학습</translation>
    </message>
    <message>
        <source>It can go on where it was, with the feedback it began with.</source>
        <translation>시작할 때의 피드백으로, 멈춘 곳부터 이어 갈 수 있어요.</translation>
    </message>
    <message>
        <source>Resume training</source>
        <translation>학습 이어 가기</translation>
    </message>
    <message>
        <source>Discard</source>
        <translation>버리기</translation>
    </message>
</context>
<context>
    <name>RunNotices</name>
    <message>
        <source>Show</source>
        <translation>보기</translation>
    </message>
    <message>
        <source>A training is unfinished.</source>
        <translation>끝나지 않은 학습이 있어요.</translation>
    </message>
    <message>
        <source>Your model has learned.</source>
        <translation>모델이 배웠어요.</translation>
    </message>
    <message>
        <source>The training ended without a new model.</source>
        <translation>새 모델 없이 학습이 끝났어요.</translation>
    </message>
</context>
<context>
    <name>RunView</name>
    <message>
        <source>Stopping: the training saves its state…</source>
        <translation>중지하는 중: 학습 상태를 저장하고 있어요…</translation>
    </message>
    <message>
        <source>Checking the new version…</source>
        <translation>새 버전을 확인하고 있어요…</translation>
    </message>
    <message>
        <source>Your model is learning</source>
        <translation>모델이 배우고 있어요</translation>
    </message>
    <message>
        <source>Stop</source>
        <translation>중지</translation>
    </message>
    <message>
        <source>Original model and new version</source>
        <translation>원래 모델과 새 버전</translation>
    </message>
    <message>
        <source>Step {0} of {1}</source>
        <translation>스텝 {0} / {1}</translation>
    </message>
    <message>
        <source>One moment…</source>
        <translation>잠시만요…</translation>
    </message>
    <message>
        <source>Loss (lower is better)</source>
        <translation>손실 (낮을수록 좋음)</translation>
    </message>
    <message>
        <source>Agrees with your choices</source>
        <translation>내 선택과 일치</translation>
    </message>
    <message>
        <source>Score (higher is better)</source>
        <translation>점수 (높을수록 좋음)</translation>
    </message>
    <message>
        <source>Distance from before (KL)</source>
        <translation>이전과의 거리 (KL)</translation>
    </message>
    <message>
        <source>less than a minute left for this stage</source>
        <translation>이 과정은 1분도 안 남았어요</translation>
    </message>
    <message numerus="yes">
        <source>about %n minute(s) left for this stage</source>
        <translation>
            <numerusform>이 과정은 약 %n분 남았어요</numerusform>
        </translation>
    </message>
</context>
<context>
    <name>SampleCard</name>
    <message>
        <source>Original model</source>
        <translation>원래 모델</translation>
    </message>
    <message>
        <source>New version</source>
        <translation>새 버전</translation>
    </message>
</context>
<context>
    <name>Sentences</name>
    <message>
        <source>Something went wrong inside Attune.</source>
        <translation>Attune 안에서 문제가 생겼어요.</translation>
    </message>
    <message>
        <source>Your conversations are safe.</source>
        <translation>대화는 안전해요.</translation>
    </message>
    <message>
        <source>The log in the data folder says more.</source>
        <translation>자세한 내용은 데이터 폴더의 로그에 있어요.</translation>
    </message>
    <message>
        <source>Attune is open already with this profile.</source>
        <translation>이 프로필로 Attune이 이미 열려 있어요.</translation>
    </message>
    <message>
        <source>Use the window that is open, or start with another --profile-dir.</source>
        <translation>열려 있는 창을 쓰거나, 다른 --profile-dir로 시작해 주세요.</translation>
    </message>
    <message>
        <source>The file with your conversations was damaged.</source>
        <translation>대화를 담은 파일이 손상되어 있었어요.</translation>
    </message>
    <message>
        <source>The file with your conversations was damaged and there is no backup yet.</source>
        <translation>대화를 담은 파일이 손상되었고, 아직 백업이 없어요.</translation>
    </message>
    <message>
        <source>The file with your conversations was gone.</source>
        <translation>대화를 담은 파일이 없어졌어요.</translation>
    </message>
    <message>
        <source>The newest backup was put in its place.</source>
        <translation>가장 최근 백업을 그 자리에 두었어요.</translation>
    </message>
    <message>
        <source>A new one was begun.</source>
        <translation>새 파일로 시작했어요.</translation>
    </message>
    <message>
        <source>The damaged file is kept as {0}.</source>
        <translation>손상된 파일은 {0}(으)로 남겨 두었어요.</translation>
    </message>
    <message>
        <source>The model is not running.</source>
        <translation>모델이 실행되고 있지 않아요.</translation>
    </message>
    <message>
        <source>Load a model first.</source>
        <translation>먼저 모델을 불러와 주세요.</translation>
    </message>
    <message>
        <source>The engine could not be started: {0}.</source>
        <translation>엔진을 시작하지 못했어요: {0}.</translation>
    </message>
    <message>
        <source>The engine was asked something it does not know.</source>
        <translation>엔진이 모르는 요청을 받았어요.</translation>
    </message>
    <message>
        <source>The model crashed.</source>
        <translation>모델이 갑자기 종료됐어요.</translation>
    </message>
    <message>
        <source>The model ended unexpectedly.</source>
        <translation>모델이 예기치 않게 끝났어요.</translation>
    </message>
    <message>
        <source>The model was ended from outside, perhaps because memory was short.</source>
        <translation>모델이 외부에서 종료됐어요. 메모리가 부족했던 것 같아요.</translation>
    </message>
    <message>
        <source>The model was ended from outside.</source>
        <translation>모델이 외부에서 종료됐어요.</translation>
    </message>
    <message>
        <source>The model crashed: its file changed or became unreadable while it was in use.</source>
        <translation>모델이 갑자기 종료됐어요. 쓰는 동안 파일이 바뀌었거나 읽을 수 없게 됐어요.</translation>
    </message>
    <message>
        <source>The computer ran out of memory and ended the model.</source>
        <translation>컴퓨터의 메모리가 부족해서 모델이 종료됐어요.</translation>
    </message>
    <message>
        <source>Close other programs or use a smaller model.</source>
        <translation>다른 프로그램을 닫거나 더 작은 모델을 사용해 주세요.</translation>
    </message>
    <message>
        <source>The model did not answer for {0} seconds and was stopped.</source>
        <translation>모델이 {0}초 동안 응답하지 않아서 멈췄어요.</translation>
    </message>
    <message>
        <source>There is not enough memory for this.</source>
        <translation>메모리가 부족해요.</translation>
    </message>
    <message>
        <source>{0} needs {1} MB of memory (weights {2} + context {3} + work space {4}), and only {5} MB are free for it.</source>
        <translation>{0} 모델에는 메모리 {1} MB가 필요한데(가중치 {2} + 문맥 {3} + 작업 공간 {4}), 쓸 수 있는 것은 {5} MB뿐이에요.</translation>
    </message>
    <message>
        <source>Loading was stopped.</source>
        <translation>불러오기를 멈췄어요.</translation>
    </message>
    <message>
        <source>The model&apos;s file is still being read.</source>
        <translation>모델 파일을 아직 읽고 있어요.</translation>
    </message>
    <message>
        <source>Try again in a moment.</source>
        <translation>잠시 뒤에 다시 시도해 주세요.</translation>
    </message>
    <message>
        <source>This conversation is {0} tokens long, and the model can read {1} at once.</source>
        <translation>이 대화는 토큰 {0}개 길이인데, 모델이 한 번에 읽을 수 있는 것은 {1}개예요.</translation>
    </message>
    <message>
        <source>Begin a new one, or let the oldest turns be left out.</source>
        <translation>새 대화를 시작하거나, 가장 오래된 차례를 빼도록 바꿔 주세요.</translation>
    </message>
    <message>
        <source>No model is loaded.</source>
        <translation>불러온 모델이 없어요.</translation>
    </message>
    <message>
        <source>There is nothing to answer.</source>
        <translation>답할 내용이 없어요.</translation>
    </message>
    <message>
        <source>{0} is {1} tokens long, and the model can read {2} at once.</source>
        <translation>{0}의 길이는 {1}토큰인데, 모델은 한 번에 {2}토큰을 읽을 수 있어요.</translation>
    </message>
    <message>
        <source>This message</source>
        <translation>이 메시지</translation>
    </message>
    <message>
        <source>The last turn</source>
        <translation>마지막 차례</translation>
    </message>
    <message>
        <source>Shorten it or send it in parts.</source>
        <translation>줄이거나 나누어 보내 주세요.</translation>
    </message>
    <message>
        <source>The system prompt is too long for this model.</source>
        <translation>이 모델에 쓰기에는 시스템 프롬프트가 너무 길어요.</translation>
    </message>
    <message>
        <source>Shorten it in the settings.</source>
        <translation>설정에서 줄여 주세요.</translation>
    </message>
    <message>
        <source>The model failed while it was computing; the log says more.</source>
        <translation>모델이 계산하다가 실패했어요. 자세한 내용은 로그에 있어요.</translation>
    </message>
    <message>
        <source>This model gives no hidden states, so it cannot score.</source>
        <translation>이 모델은 은닉 상태를 내주지 않아서 점수를 매길 수 없어요.</translation>
    </message>
    <message>
        <source>{0} holds no reward model, so it cannot score completions.</source>
        <translation>{0} 버전에는 보상 모델이 없어서 답변에 점수를 매길 수 없어요.</translation>
    </message>
    <message>
        <source>The reward model {0} was made for another model.</source>
        <translation>보상 모델 {0}은(는) 다른 모델용이에요.</translation>
    </message>
    <message>
        <source>With its prompt a completion is {0} tokens long, and the model can read {1} at once.</source>
        <translation>앞선 대화까지 더하면 답변이 토큰 {0}개 길이인데, 모델이 한 번에 읽을 수 있는 것은 {1}개예요.</translation>
    </message>
    <message>
        <source>The completions are too long to be scored together.</source>
        <translation>답변들이 너무 길어서 한꺼번에 점수를 매길 수 없어요.</translation>
    </message>
    <message>
        <source>Scoring was stopped.</source>
        <translation>점수 매기기를 멈췄어요.</translation>
    </message>
    <message>
        <source>The grammar cannot be used: {0}.</source>
        <translation>문법을 사용할 수 없습니다: {0}.</translation>
    </message>
    <message>
        <source>The JSON schema cannot be used: {0}.</source>
        <translation>JSON 스키마를 사용할 수 없습니다: {0}.</translation>
    </message>
    <message>
        <source>A completion can follow a grammar or a JSON schema, not both.</source>
        <translation>답변은 문법이나 JSON 스키마 중 하나만 따를 수 있습니다.</translation>
    </message>
    <message>
        <source>The sampling setting {0} must be from {1} to {2}, not {3}.</source>
        <translation>샘플링 설정 {0}은(는) {1}에서 {2} 사이여야 하며, {3}은(는) 쓸 수 없습니다.</translation>
    </message>
    <message>
        <source>The logit bias of {0} must be a finite number, not {1}; -100 is as good as never.</source>
        <translation>{0}의 로짓 편향은 유한한 수여야 하며, {1}은(는) 쓸 수 없습니다. -100이면 거의 나오지 않습니다.</translation>
    </message>
    <message>
        <source>There is a logit bias for token {0}, but the tokens of this model are 0 to {1}.</source>
        <translation>토큰 {0}에 로짓 편향이 있지만, 이 모델의 토큰은 0부터 {1}까지입니다.</translation>
    </message>
    <message>
        <source>There is a logit bias for {0}, but that is {1} tokens of this model; a bias is for exactly one.</source>
        <translation>{0}에 로짓 편향이 있지만, 이 모델에서는 토큰 {1}개입니다. 편향은 토큰 하나에만 줄 수 있습니다.</translation>
    </message>
    <message>
        <source>llama.cpp could not load {0}.</source>
        <translation>llama.cpp가 {0} 파일을 불러오지 못했어요.</translation>
    </message>
    <message>
        <source>It may be of a kind that is newer than this program.</source>
        <translation>이 프로그램보다 새로운 종류일 수 있어요.</translation>
    </message>
    <message>
        <source>llama.cpp refused the adapter {0}; its log says why.</source>
        <translation>llama.cpp가 어댑터 {0}을 거부했어요. 이유는 로그에 있어요.</translation>
    </message>
    <message>
        <source>llama.cpp refused to use the adapter; its log says why.</source>
        <translation>llama.cpp가 어댑터를 거부했어요. 이유는 로그에 있어요.</translation>
    </message>
    <message>
        <source>There is not enough memory for a context of {0} tokens.</source>
        <translation>{0}토큰의 컨텍스트를 쓰기에는 메모리가 부족해요.</translation>
    </message>
    <message>
        <source>Close other programs, or choose a shorter context or a smaller model.</source>
        <translation>다른 프로그램을 닫거나, 더 짧은 컨텍스트나 더 작은 모델을 선택해 주세요.</translation>
    </message>
    <message>
        <source>This model does not say how an answer ends, so it cannot chat.</source>
        <translation>이 모델에는 답변이 끝나는 표시가 없어서 대화할 수 없어요.</translation>
    </message>
    <message>
        <source>This text is too long to be read at once.</source>
        <translation>한 번에 읽기에는 너무 긴 글이에요.</translation>
    </message>
    <message>
        <source>{0} is not a LoRA adapter.</source>
        <translation>{0} 파일은 LoRA 어댑터가 아니에요.</translation>
    </message>
    <message>
        <source>{0} was made for another kind of model ({1}, and this one is {2}).</source>
        <translation>{0} 파일은 다른 종류의 모델용이에요({1}, 이 모델은 {2}).</translation>
    </message>
    <message>
        <source>{0} does not say how strong it is (its alpha is {1}).</source>
        <translation>{0} 파일에 세기가 적혀 있지 않아요(alpha: {1}).</translation>
    </message>
    <message>
        <source>{0} is damaged: it is not the file that was installed.</source>
        <translation>{0} 파일이 손상됐어요. 설치한 파일과 달라요.</translation>
    </message>
    <message>
        <source>{0} is empty.</source>
        <translation>{0} 파일이 비어 있어요.</translation>
    </message>
    <message>
        <source>{0} holds only one half of {1}.</source>
        <translation>{0} 파일에 {1}의 절반만 있어요.</translation>
    </message>
    <message>
        <source>{0} was made for another model: this one has no {1}.</source>
        <translation>{0} 파일은 다른 모델용이에요. 이 모델에는 {1}이(가) 없어요.</translation>
    </message>
    <message>
        <source>{0} holds {1} in a form that cannot be applied.</source>
        <translation>{0} 파일의 {1} 형식은 적용할 수 없어요.</translation>
    </message>
    <message>
        <source>{0} was made for another model: {1} has the shape {2} here, the adapter&apos;s halves {3} and {4}.</source>
        <translation>{0} 파일은 다른 모델용이에요. 여기서 {1}의 모양은 {2}인데 어댑터는 {3}, {4}이에요.</translation>
    </message>
    <message>
        <source>{0} is an adapter; it needs the model it was made for.</source>
        <translation>{0} 파일은 어댑터예요. 함께 쓸 모델이 필요해요.</translation>
    </message>
    <message>
        <source>{0} does not say how its file {1} must look.</source>
        <translation>{0} 버전에 {1} 파일의 정보가 없어요.</translation>
    </message>
    <message>
        <source>The model that {0} was trained on is not here any more.</source>
        <translation>{0} 버전이 학습한 모델이 이제 여기에 없어요.</translation>
    </message>
    <message>
        <source>There is already another model version {0}.</source>
        <translation>다른 모델 버전 {0}이(가) 이미 있어요.</translation>
    </message>
    <message>
        <source>There is no earlier model version to go back to.</source>
        <translation>되돌아갈 이전 모델 버전이 없어요.</translation>
    </message>
    <message>
        <source>The bundled model cannot be removed.</source>
        <translation>기본 모델은 삭제할 수 없어요.</translation>
    </message>
    <message>
        <source>The active model version cannot be removed; activate another first.</source>
        <translation>사용 중인 모델 버전은 삭제할 수 없어요. 먼저 다른 버전을 사용해 주세요.</translation>
    </message>
    <message>
        <source>There is no model version {0}.</source>
        <translation>{0} 모델 버전이 없어요.</translation>
    </message>
    <message>
        <source>The model version in {0} calls itself another name.</source>
        <translation>{0} 폴더에 있는 모델 버전의 이름이 달라요.</translation>
    </message>
    <message>
        <source>{0} was trained on a model that is not installed here.</source>
        <translation>{0} 버전은 여기에 설치되지 않은 모델로 학습했어요.</translation>
    </message>
    <message>
        <source>Install that model first.</source>
        <translation>먼저 그 모델을 설치해 주세요.</translation>
    </message>
    <message>
        <source>There is not enough space on the disk for the new model.</source>
        <translation>새 모델을 저장하기에는 디스크 공간이 부족해요.</translation>
    </message>
    <message>
        <source>Free {0} MB.</source>
        <translation>{0} MB를 비워 주세요.</translation>
    </message>
    <message>
        <source>A model version cannot hold the name {0}.</source>
        <translation>모델 버전에 {0}이라는 이름은 쓸 수 없어요.</translation>
    </message>
    <message>
        <source>The file {0} of {1} is missing.</source>
        <translation>{1} 버전의 {0} 파일이 없어요.</translation>
    </message>
    <message>
        <source>The new model could not be stored: {0}.</source>
        <translation>새 모델을 저장하지 못했어요: {0}.</translation>
    </message>
    <message>
        <source>Free some space on the disk and install it again.</source>
        <translation>디스크 공간을 비운 뒤 다시 설치해 주세요.</translation>
    </message>
    <message>
        <source>The file {0} of {1} is missing or incomplete.</source>
        <translation>{1} 버전의 {0} 파일이 없거나 완전하지 않아요.</translation>
    </message>
    <message>
        <source>The bundled model {0} is missing.</source>
        <translation>기본 모델 {0} 파일이 없어요.</translation>
    </message>
    <message>
        <source>Install Attune again, or start it with another model.</source>
        <translation>Attune을 다시 설치하거나 다른 모델로 시작해 주세요.</translation>
    </message>
    <message>
        <source>{0} holds neither a model nor an adapter.</source>
        <translation>{0} 버전에 모델도 어댑터도 없어요.</translation>
    </message>
    <message>
        <source>The active model version cannot be used; the bundled model is.</source>
        <translation>사용하던 모델 버전을 쓸 수 없어서 기본 모델을 사용해요.</translation>
    </message>
    <message>
        <source>Which model version was active cannot be read; the bundled model is used.</source>
        <translation>어떤 모델 버전을 쓰고 있었는지 읽을 수 없어서 기본 모델을 사용해요.</translation>
    </message>
    <message>
        <source>The folder {0} cannot be used: {1}.</source>
        <translation>{0} 폴더를 쓸 수 없어요: {1}.</translation>
    </message>
    <message>
        <source>Choose another one with --profile-dir.</source>
        <translation>--profile-dir로 다른 폴더를 지정해 주세요.</translation>
    </message>
    <message>
        <source>Attune cannot write in the folder {0}.</source>
        <translation>Attune이 {0} 폴더에 쓸 수 없어요.</translation>
    </message>
    <message>
        <source>Check that it is yours and that the disk is not full, or choose another one with --profile-dir.</source>
        <translation>쓰기 권한이 있는지, 디스크가 가득 차지 않았는지 확인하거나, --profile-dir로 다른 폴더를 지정해 주세요.</translation>
    </message>
    <message>
        <source>The file {0} in {1} cannot be opened ({2}).</source>
        <translation>{1} 폴더의 {0} 파일을 열 수 없어요({2}).</translation>
    </message>
    <message>
        <source>Check that the folder may be written and that no other Attune uses it.</source>
        <translation>폴더에 쓸 수 있는지, 다른 Attune이 쓰고 있지 않은지 확인해 주세요.</translation>
    </message>
    <message>
        <source>This could not be saved ({0}).</source>
        <translation>저장하지 못했어요({0}).</translation>
    </message>
    <message>
        <source>Check the data folder.</source>
        <translation>데이터 폴더를 확인해 주세요.</translation>
    </message>
    <message>
        <source>The disk is full, so this could not be saved.</source>
        <translation>디스크가 가득 차서 저장하지 못했어요.</translation>
    </message>
    <message>
        <source>Free some space.</source>
        <translation>공간을 비워 주세요.</translation>
    </message>
    <message>
        <source>These conversations were written by a newer Attune.</source>
        <translation>더 새로운 Attune에서 만든 대화예요.</translation>
    </message>
    <message>
        <source>Update Attune, or start it with another --profile-dir.</source>
        <translation>Attune을 업데이트하거나 다른 --profile-dir로 시작해 주세요.</translation>
    </message>
    <message>
        <source>Nothing was changed.</source>
        <translation>아무것도 바꾸지 않았어요.</translation>
    </message>
    <message>
        <source>This model&apos;s chat template could not be used: {0}</source>
        <translation>이 모델의 대화 템플릿을 쓸 수 없어요: {0}</translation>
    </message>
    <message>
        <source>The conversation is empty; write a message first.</source>
        <translation>대화가 비어 있어요. 먼저 메시지를 써 주세요.</translation>
    </message>
    <message>
        <source>This model&apos;s chat template depends on what the messages say in a way Attune does not know, so it cannot be used for chatting.</source>
        <translation>이 모델의 대화 템플릿은 Attune이 모르는 방식으로 메시지 내용에 따라 달라져서 대화에 쓸 수 없어요.</translation>
    </message>
    <message>
        <source>This model&apos;s chat template rewrites messages in a way Attune does not know, so it cannot be used for chatting.</source>
        <translation>이 모델의 대화 템플릿은 Attune이 모르는 방식으로 메시지를 바꿔 써서 대화에 쓸 수 없어요.</translation>
    </message>
    <message>
        <source>There is no file {0} in {1}.</source>
        <translation>{1} 폴더에 {0} 파일이 없어요.</translation>
    </message>
    <message>
        <source>{0} cannot be read: {1}.</source>
        <translation>{0} 파일을 읽을 수 없어요: {1}.</translation>
    </message>
    <message>
        <source>{0} is not a usable GGUF model: {1}.</source>
        <translation>{0} 파일은 쓸 수 있는 GGUF 모델이 아니에요: {1}.</translation>
    </message>
    <message>
        <source>Download or export it again.</source>
        <translation>다시 받거나 내보내 주세요.</translation>
    </message>
    <message>
        <source>The model version in {0} was made by a newer Attune; update first.</source>
        <translation>{0} 폴더의 모델 버전은 더 새로운 Attune에서 만들었어요. 먼저 업데이트해 주세요.</translation>
    </message>
    <message>
        <source>{0} is not a model version: {1} is missing.</source>
        <translation>{0} 폴더는 모델 버전이 아니에요. {1} 파일이 없어요.</translation>
    </message>
    <message>
        <source>The description of the model version in {0} is damaged.</source>
        <translation>{0} 폴더에 있는 모델 버전의 설명이 손상됐어요.</translation>
    </message>
    <message>
        <source>The file {0} of {1} is damaged.</source>
        <translation>{1} 버전의 {0} 파일이 손상됐어요.</translation>
    </message>
    <message>
        <source>There are {0} liked or corrected answers; {1} more are wanted to learn from them directly.</source>
        <translation>좋아요를 누르거나 고쳐 쓴 답변이 {0}개예요. 따라 배우려면 {1}개가 더 필요해요.</translation>
    </message>
    <message>
        <source>There are {0} comparisons and thumbs; {1} more are wanted to learn what you prefer, so practising with a reward model is left out.</source>
        <translation>비교와 평가가 {0}개예요. 취향을 익히려면 {1}개가 더 필요해서 이번에는 연습을 건너뛰어요.</translation>
    </message>
    <message>
        <source>All {0} thumbs are up; some thumbs down, or comparisons, are wanted to learn what you prefer, so practising with a reward model is left out.</source>
        <translation>평가 {0}개가 모두 ‘좋아요’라서, 취향을 익히려면 ‘별로예요’나 비교도 필요해요. 이번에는 연습을 건너뛰어요.</translation>
    </message>
    <message>
        <source>All {0} thumbs are down; some thumbs up, or comparisons, are wanted to learn what you prefer, so practising with a reward model is left out.</source>
        <translation>평가 {0}개가 모두 ‘별로예요’라서, 취향을 익히려면 ‘좋아요’나 비교도 필요해요. 이번에는 연습을 건너뛰어요.</translation>
    </message>
    <message>
        <source>No prompt to practise on leaves room for an answer, so practising with a reward model is left out.</source>
        <translation>연습할 질문 가운데 답변할 자리가 남는 것이 없어서 이번에는 연습을 건너뛰어요.</translation>
    </message>
    <message>
        <source>Every prompt is too long to leave room for an answer, so the result could not be measured; feedback on shorter conversations is wanted.</source>
        <translation>모든 질문이 너무 길어 답변할 자리가 남지 않아서 결과를 잴 수 없어요. 더 짧은 대화의 피드백이 필요해요.</translation>
    </message>
    <message>
        <source>On unseen choices the reward model agrees with you in {0} of {1}, no better than chance, so practising with it is left out.</source>
        <translation>처음 보는 선택에서 보상 모델이 {1}번 중 {0}번만 일치해서, 이번에는 연습을 건너뛰어요.</translation>
    </message>
    <message>
        <source>Most answers are longer than practising has room for, so practising with a reward model is left out.</source>
        <translation>대부분의 답변이 연습하기에는 길어서 이번에는 연습을 건너뛰어요.</translation>
    </message>
    <message>
        <source>A piece of feedback could not be read: {0}.</source>
        <translation>읽지 못한 피드백이 있어요: {0}.</translation>
    </message>
    <message>
        <source>{0} completions are longer than {1} tokens with their prompt and were left out.</source>
        <translation>답변 {0}개는 메시지와 합쳐 {1}토큰보다 길어서 뺐어요.</translation>
    </message>
    <message>
        <source>The feedback comes from too few conversations that begin differently, so the result cannot be measured on unseen ones.</source>
        <translation>서로 다르게 시작한 대화가 너무 적어서 처음 보는 대화로 결과를 재지 못해요.</translation>
    </message>
    <message>
        <source>The merged model will be larger than its base, because {0} can be read but not written.</source>
        <translation>{0} 형식은 읽을 수만 있고 쓸 수는 없어서, 합친 모델이 바탕 모델보다 커져요.</translation>
    </message>
    <message>
        <source>The base is stored as {0}, which cannot be merged; choose another quantisation of it.</source>
        <translation>바탕 모델이 {0} 형식으로 저장되어 있어 합칠 수 없어요. 다른 양자화 파일을 골라 주세요.</translation>
    </message>
    <message>
        <source>PPO stopped at {0} nats from the SFT model (budget {1}); the last weights within the budget are kept.</source>
        <translation>SFT 모델에서 {0} nats 떨어져 PPO를 멈췄어요(한도 {1}). 한도 안의 마지막 가중치를 사용해요.</translation>
    </message>
    <message>
        <source>The result of {0} is not offered: {1}.</source>
        <translation>{0} 결과는 권하지 않아요: {1}.</translation>
    </message>
    <message>
        <source>The result is not better than the model it came from, so it is not offered ({0}).</source>
        <translation>결과가 원래 모델보다 낫지 않아서 권하지 않아요({0}).</translation>
    </message>
    <message>
        <source>The training was stopped.</source>
        <translation>학습을 중지했어요.</translation>
    </message>
    <message>
        <source>It can go on from where it was.</source>
        <translation>멈춘 곳부터 이어 갈 수 있어요.</translation>
    </message>
    <message>
        <source>There was not enough memory.</source>
        <translation>메모리가 부족했어요.</translation>
    </message>
    <message>
        <source>Close other programs or choose a smaller model, then resume the training.</source>
        <translation>다른 프로그램을 닫거나 더 작은 모델을 고른 뒤 학습을 이어 가세요.</translation>
    </message>
    <message>
        <source>The disk is full.</source>
        <translation>디스크가 가득 찼어요.</translation>
    </message>
    <message>
        <source>Free some space, then resume the training.</source>
        <translation>공간을 비운 뒤 학습을 이어 가세요.</translation>
    </message>
    <message>
        <source>The training failed unexpectedly ({0}).</source>
        <translation>학습이 예기치 않게 실패했어요({0}).</translation>
    </message>
    <message>
        <source>Details are in its log.txt.</source>
        <translation>자세한 내용은 log.txt에 있어요.</translation>
    </message>
    <message>
        <source>The training lost its footing: {0}.</source>
        <translation>학습이 길을 벗어났어요: {0}.</translation>
    </message>
    <message>
        <source>Your model is unchanged.</source>
        <translation>모델은 그대로예요.</translation>
    </message>
    <message>
        <source>The model file {0} has changed since this run was prepared.</source>
        <translation>이 학습을 준비한 뒤로 모델 파일 {0}이(가) 바뀌었어요.</translation>
    </message>
    <message>
        <source>There is too little feedback to learn from: {0} and {1} are wanted.</source>
        <translation>배울 피드백이 너무 적어요. {0}, {1}가 더 필요해요.</translation>
    </message>
    <message>
        <source>There is too little feedback to learn from: {0} are wanted.</source>
        <translation>배울 피드백이 너무 적어요. {0}가 더 필요해요.</translation>
    </message>
    <message>
        <source>{0} more liked or corrected answers</source>
        <translation>좋아요를 누르거나 고쳐 쓴 답변 {0}개</translation>
    </message>
    <message>
        <source>{0} more comparisons or thumbs</source>
        <translation>비교나 평가 {0}개</translation>
    </message>
    <message>
        <source>some thumbs up or comparisons</source>
        <translation>‘좋아요’ 평가나 비교</translation>
    </message>
    <message>
        <source>some thumbs down or comparisons</source>
        <translation>‘별로예요’ 평가나 비교</translation>
    </message>
    <message>
        <source>shorter conversations</source>
        <translation>더 짧은 대화</translation>
    </message>
    <message>
        <source>more stages in the recipe</source>
        <translation>레시피의 다른 단계</translation>
    </message>
    <message>
        <source>There was not enough memory for a step, so it goes on in smaller pieces ({0} tokens at once).</source>
        <translation>한 단계를 처리할 메모리가 부족해서 더 작게 나누어 이어 가요(한 번에 {0}토큰).</translation>
    </message>
    <message>
        <source>some of its numbers are not finite</source>
        <translation>일부 수치가 유한한 값이 아니에요</translation>
    </message>
    <message>
        <source>it learned nothing</source>
        <translation>배운 것이 없어요</translation>
    </message>
    <message>
        <source>it unlearned too much (loss {0} times the base&apos;s, allowed {1})</source>
        <translation>너무 많이 잊었어요(손실이 바탕 모델의 {0}배, 허용 {1}배)</translation>
    </message>
    <message>
        <source>it repeats itself (variety {0} of the base&apos;s, wanted {1})</source>
        <translation>같은 말을 되풀이해요(다양성이 바탕 모델의 {0}배, 기준 {1}배)</translation>
    </message>
    <message>
        <source>its completions often do not end</source>
        <translation>답변이 끝나지 않을 때가 많아요</translation>
    </message>
    <message>
        <source>its completions are often empty</source>
        <translation>답변이 비어 있을 때가 많아요</translation>
    </message>
    <message>
        <source>it does not please the reward model more than the base does</source>
        <translation>보상 모델이 바탕 모델보다 더 좋게 보지 않아요</translation>
    </message>
    <message>
        <source>no stage could learn</source>
        <translation>배울 수 있는 단계가 없었어요</translation>
    </message>
    <message>
        <source>the policy loss is not a number any more</source>
        <translation>정책 손실이 더는 숫자가 아니에요</translation>
    </message>
    <message>
        <source>{0} is not a number any more</source>
        <translation>{0} 값이 더는 숫자가 아니에요</translation>
    </message>
    <message>
        <source>sampler and trainer disagree by {0} nats a token</source>
        <translation>답변을 쓸 때와 학습할 때의 계산이 토큰당 {0} nats만큼 달라요</translation>
    </message>
    <message>
        <source>The exported model does not run in llama.cpp.</source>
        <translation>내보낸 모델이 llama.cpp에서 실행되지 않아요.</translation>
    </message>
    <message>
        <source>The exported model reads text differently from the trained one.</source>
        <translation>내보낸 모델이 학습한 모델과 글을 다르게 읽어요.</translation>
    </message>
    <message>
        <source>The {0} scores differently from the trained model ({1} nats a token, allowed {2}).</source>
        <translation>{0}의 확률 계산이 학습한 모델과 달라요(토큰당 {1} nats, 허용 {2}).</translation>
    </message>
    <message>
        <source>The {0} writes something else than the trained model ({1} nats a token, allowed {2}).</source>
        <translation>{0}의 글이 학습한 모델의 글과 달라요(토큰당 {1} nats, 허용 {2}).</translation>
    </message>
    <message>
        <source>exported adapter</source>
        <translation>내보낸 어댑터</translation>
    </message>
    <message>
        <source>merged model</source>
        <translation>합친 모델</translation>
    </message>
    <message>
        <source>The model file {0} was changed during the training, so its result fits no model any more.</source>
        <translation>학습하는 동안 모델 파일 {0}이(가) 바뀌어서, 결과에 맞는 모델이 이제 없어요.</translation>
    </message>
    <message>
        <source>{0} is not a run folder: run.json is missing.</source>
        <translation>{0}은(는) 학습 폴더가 아니에요. run.json이 없어요.</translation>
    </message>
    <message>
        <source>The file run.json in {0} is damaged.</source>
        <translation>{0} 폴더의 run.json 파일이 손상됐어요.</translation>
    </message>
    <message>
        <source>Another trainer (process {0}) is at work in {1}; let it finish or stop it first.</source>
        <translation>다른 학습(프로세스 {0})이 {1} 폴더에서 진행 중이에요. 끝날 때까지 기다리거나 먼저 중지해 주세요.</translation>
    </message>
    <message>
        <source>This file is an adapter, not a model; choose the model it belongs to.</source>
        <translation>이 파일은 모델이 아니라 어댑터예요. 어댑터에 맞는 모델을 골라 주세요.</translation>
    </message>
    <message>
        <source>Models of the kind {0} can be chatted with but not trained yet; those that can are: {1}.</source>
        <translation>{0} 종류의 모델과는 대화할 수 있지만 아직 학습은 할 수 없어요. 학습할 수 있는 종류: {1}.</translation>
    </message>
    <message>
        <source>Models made of several experts cannot be trained yet.</source>
        <translation>여러 전문가로 이루어진 모델은 아직 학습할 수 없어요.</translation>
    </message>
    <message>
        <source>Models with {0} position scaling cannot be trained yet.</source>
        <translation>{0} 방식으로 위치를 조정하는 모델은 아직 학습할 수 없어요.</translation>
    </message>
    <message>
        <source>The model file does not say its {0}; download it again.</source>
        <translation>모델 파일에 {0} 정보가 없어요. 다시 내려받아 주세요.</translation>
    </message>
    <message>
        <source>The model file has no {0}, so it cannot be trained on.</source>
        <translation>모델 파일에 {0}이(가) 없어서 학습할 수 없어요.</translation>
    </message>
    <message>
        <source>{0} is stored as {1}, which cannot be trained on; choose another quantisation of the model.</source>
        <translation>{0} 파일은 {1} 형식으로 저장되어 있어 학습할 수 없어요. 다른 양자화 파일을 골라 주세요.</translation>
    </message>
    <message>
        <source>{0} has a tensor {1} that cannot be trained with yet.</source>
        <translation>{0} 파일에는 아직 학습에 쓸 수 없는 텐서 {1}이(가) 있어요.</translation>
    </message>
    <message>
        <source>{0} does not fit its architecture ({1}).</source>
        <translation>{0} 파일이 자기 구조와 맞지 않아요({1}).</translation>
    </message>
    <message>
        <source>{0} is an adapter for another model.</source>
        <translation>{0}은(는) 다른 모델용 어댑터예요.</translation>
    </message>
    <message>
        <source>llama.cpp cannot read the vocabulary of {0}.</source>
        <translation>llama.cpp가 {0}의 어휘를 읽지 못해요.</translation>
    </message>
    <message>
        <source>This model has no token that ends a turn, so it cannot be trained.</source>
        <translation>이 모델에는 차례를 끝내는 토큰이 없어서 학습할 수 없어요.</translation>
    </message>
</context>
<context>
    <name>SettingsDialog</name>
    <message>
        <source>Settings</source>
        <translation>설정</translation>
    </message>
    <message>
        <source>Window</source>
        <translation>화면</translation>
    </message>
    <message>
        <source>Answers</source>
        <translation>답변</translation>
    </message>
    <message>
        <source>Your data</source>
        <translation>내 데이터</translation>
    </message>
    <message>
        <source>Language</source>
        <translation>언어</translation>
    </message>
    <message>
        <source>Appearance</source>
        <translation>모양</translation>
    </message>
    <message>
        <source>Text size</source>
        <translation>글자 크기</translation>
    </message>
    <message>
        <source>System prompt</source>
        <translation>시스템 프롬프트</translation>
    </message>
    <message>
        <source>Temperature</source>
        <translation>온도</translation>
    </message>
    <message>
        <source>Longest answer</source>
        <translation>가장 긴 답변</translation>
    </message>
    <message>
        <source>Offer a comparison</source>
        <translation>비교 제안</translation>
    </message>
    <message>
        <source>What the model is told before every conversation.</source>
        <translation>대화를 시작하기 전에 모델에게 일러두는 말이에요.</translation>
    </message>
    <message>
        <source>Only the first {0} characters are kept.</source>
        <translation>처음 {0}자까지만 저장돼요.</translation>
    </message>
    <message>
        <source>Low: predictable answers. High: more varied ones.</source>
        <translation>낮으면 예상하기 쉬운 답변, 높으면 더 다양한 답변이 나와요.</translation>
    </message>
    <message>
        <source>In tokens; a token is about four letters of English or one or two of Korean.</source>
        <translation>토큰 단위예요. 한 토큰은 영어 네 글자, 한국어 한두 글자쯤이에요.</translation>
    </message>
    <message>
        <source>Now and then two answers are written, and you choose the better one.</source>
        <translation>가끔 답변을 두 개 쓰고, 더 나은 쪽을 고르게 해요.</translation>
    </message>
    <message>
        <source>Conversations, feedback, models and training runs.</source>
        <translation>대화, 피드백, 모델, 학습 기록이 들어 있어요.</translation>
    </message>
    <message>
        <source>None</source>
        <translation>없음</translation>
    </message>
    <message>
        <source>Like the system</source>
        <translation>시스템과 같이</translation>
    </message>
    <message>
        <source>Light</source>
        <translation>밝게</translation>
    </message>
    <message>
        <source>Dark</source>
        <translation>어둡게</translation>
    </message>
    <message>
        <source>Only when I ask</source>
        <translation>내가 요청할 때만</translation>
    </message>
    <message numerus="yes">
        <source>With every %n message(s)</source>
        <translation>
            <numerusform>메시지 %n개마다</numerusform>
        </translation>
    </message>
    <message>
        <source>Open folder</source>
        <translation>폴더 열기</translation>
    </message>
    <message>
        <source>Done</source>
        <translation>완료</translation>
    </message>
</context>
<context>
    <name>Shortcuts</name>
    <message>
        <source>Enter</source>
        <translation>Enter</translation>
    </message>
    <message>
        <source>Send the message</source>
        <translation>메시지 보내기</translation>
    </message>
    <message>
        <source>Shift+Enter</source>
        <translation>Shift+Enter</translation>
    </message>
    <message>
        <source>Start a new line</source>
        <translation>줄 바꾸기</translation>
    </message>
    <message>
        <source>Rename the conversation (in the list)</source>
        <translation>대화 이름 바꾸기 (목록에서)</translation>
    </message>
    <message>
        <source>Delete</source>
        <translation>삭제</translation>
    </message>
    <message>
        <source>Delete the conversation (in the list)</source>
        <translation>대화 삭제 (목록에서)</translation>
    </message>
    <message>
        <source>Choose an answer (when comparing)</source>
        <translation>답변 고르기 (비교할 때)</translation>
    </message>
    <message>
        <source>Both are good, both are bad (when comparing)</source>
        <translation>둘 다 좋음, 둘 다 나쁨 (비교할 때)</translation>
    </message>
    <message>
        <source>New conversation</source>
        <translation>새 대화</translation>
    </message>
    <message>
        <source>Search in all conversations</source>
        <translation>모든 대화에서 검색</translation>
    </message>
    <message>
        <source>Write the last answer again</source>
        <translation>마지막 답변 다시 쓰기</translation>
    </message>
    <message>
        <source>Stop writing</source>
        <translation>쓰기 중지</translation>
    </message>
    <message>
        <source>Take the last feedback back</source>
        <translation>마지막 피드백 취소</translation>
    </message>
    <message>
        <source>Show or hide the learning panel</source>
        <translation>학습 패널 보이기/숨기기</translation>
    </message>
    <message>
        <source>Show or hide the conversations</source>
        <translation>대화 목록 보이기/숨기기</translation>
    </message>
    <message>
        <source>Larger text</source>
        <translation>글자 크게</translation>
    </message>
    <message>
        <source>Smaller text</source>
        <translation>글자 작게</translation>
    </message>
    <message>
        <source>Normal text size</source>
        <translation>글자 크기 원래대로</translation>
    </message>
    <message>
        <source>Settings</source>
        <translation>설정</translation>
    </message>
    <message>
        <source>Keyboard shortcuts</source>
        <translation>단축키</translation>
    </message>
</context>
<context>
    <name>ShortcutsDialog</name>
    <message>
        <source>Keyboard shortcuts</source>
        <translation>단축키</translation>
    </message>
    <message>
        <source>Done</source>
        <translation>완료</translation>
    </message>
</context>
<context>
    <name>SiblingSwitch</name>
    <message>
        <source>Version {0} of {1}</source>
        <translation>버전 {1}개 중 {0}번째</translation>
    </message>
    <message>
        <source>Previous version</source>
        <translation>이전 버전</translation>
    </message>
    <message>
        <source>Next version</source>
        <translation>다음 버전</translation>
    </message>
</context>
<context>
    <name>StageTimeline</name>
    <message>
        <source>Prepare</source>
        <translation>준비</translation>
    </message>
    <message>
        <source>Reads your feedback and puts some of it aside for the examination.</source>
        <translation>피드백을 읽고 일부를 시험용으로 따로 두어요.</translation>
    </message>
    <message>
        <source>Imitate good answers</source>
        <translation>좋은 답변 따라 배우기</translation>
    </message>
    <message>
        <source>Supervised fine-tuning on what you liked, chose and corrected.</source>
        <translation>좋아요를 누르고, 고르고, 고쳐 쓴 답변으로 미세 조정(SFT)을 해요.</translation>
    </message>
    <message>
        <source>Learn your taste</source>
        <translation>취향 익히기</translation>
    </message>
    <message>
        <source>A reward model learns to judge answers the way you do.</source>
        <translation>보상 모델이 나처럼 답변을 평가하는 법을 배워요.</translation>
    </message>
    <message>
        <source>Practise</source>
        <translation>연습</translation>
    </message>
    <message>
        <source>PPO: it writes, the reward model scores, and good habits grow.</source>
        <translation>PPO: 답변을 써 보고 보상 모델의 점수를 받으며 좋은 습관을 키워요.</translation>
    </message>
    <message>
        <source>Examine</source>
        <translation>시험</translation>
    </message>
    <message>
        <source>Compares the new version with the original model on what was put aside.</source>
        <translation>따로 둔 것으로 새 버전과 원래 모델을 비교해요.</translation>
    </message>
    <message>
        <source>Finish</source>
        <translation>마무리</translation>
    </message>
    <message>
        <source>Writes the new version to the disk.</source>
        <translation>새 버전을 디스크에 써요.</translation>
    </message>
    <message>
        <source>to come</source>
        <translation>예정</translation>
    </message>
    <message>
        <source>at work</source>
        <translation>진행 중</translation>
    </message>
    <message>
        <source>done</source>
        <translation>완료</translation>
    </message>
    <message>
        <source>left out</source>
        <translation>건너뜀</translation>
    </message>
</context>
<context>
    <name>TrainerProcess</name>
    <message>
        <source>The trainer could not be started.</source>
        <translation>학습 프로그램을 시작하지 못했어요.</translation>
    </message>
    <message>
        <source>The training was stopped.</source>
        <translation>학습을 중지했어요.</translation>
    </message>
    <message>
        <source>The trainer was ended from outside, most likely for lack of memory.</source>
        <translation>학습 프로그램이 외부에서 종료됐어요. 메모리가 부족했던 것 같아요.</translation>
    </message>
    <message>
        <source>The trainer ended unexpectedly. You can resume where it was.</source>
        <translation>학습 프로그램이 예기치 않게 끝났어요. 멈춘 곳부터 이어 갈 수 있어요.</translation>
    </message>
</context>
<context>
    <name>TrashNotice</name>
    <message>
        <source>“{0}” was deleted.</source>
        <translation>‘{0}’ 대화를 삭제했어요.</translation>
    </message>
    <message numerus="yes">
        <source>%n conversation(s) were deleted.</source>
        <translation>
            <numerusform>대화 %n개를 삭제했어요.</numerusform>
        </translation>
    </message>
    <message>
        <source>Undo</source>
        <translation>실행 취소</translation>
    </message>
</context>
<context>
    <name>TrialView</name>
    <message>
        <source>Which answer is better?</source>
        <translation>어느 답변이 더 나은가요?</translation>
    </message>
    <message>
        <source>One is from “{0}”, one from “{1}”. How often you preferred each is told at the end.</source>
        <translation>하나는 “{0}”, 하나는 “{1}”의 답변이에요. 어느 쪽을 몇 번 골랐는지는 끝에 알려 드려요.</translation>
    </message>
    <message>
        <source>Leave the comparison</source>
        <translation>비교 그만두기</translation>
    </message>
    <message>
        <source>Both versions are answering…</source>
        <translation>두 버전이 답변하고 있어요…</translation>
    </message>
    <message>
        <source>You wrote</source>
        <translation>내가 쓴 말</translation>
    </message>
    <message>
        <source>Answer {0}</source>
        <translation>답변 {0}</translation>
    </message>
    <message>
        <source>{0} is better ({1})</source>
        <translation>{0}가 더 좋음 ({1})</translation>
    </message>
    <message>
        <source>Both are good (=)</source>
        <translation>둘 다 좋음 (=)</translation>
    </message>
    <message>
        <source>Both are bad (0)</source>
        <translation>둘 다 나쁨 (0)</translation>
    </message>
    <message>
        <source>{0} of {1}</source>
        <translation>{0} / {1}</translation>
    </message>
    <message>
        <source>Question {0} of {1}</source>
        <translation>질문 {1}개 중 {0}번째</translation>
    </message>
    <message>
        <source>You found no difference</source>
        <translation>차이를 느끼지 못했어요</translation>
    </message>
    <message>
        <source>You preferred “{0}”</source>
        <translation>“{0}” 쪽을 더 좋아했어요</translation>
    </message>
    <message>
        <source>“{0}”: {1}. “{2}”: {3}. No difference: {4}.</source>
        <translation>“{0}” {1}번, “{2}” {3}번, 차이 없음 {4}번.</translation>
    </message>
    <message>
        <source>Use “{0}”</source>
        <translation>“{0}” 사용</translation>
    </message>
    <message>
        <source>Keep “{0}”</source>
        <translation>“{0}” 유지</translation>
    </message>
</context>
<context>
    <name>UserCard</name>
    <message>
        <source>Send again</source>
        <translation>다시 보내기</translation>
    </message>
    <message>
        <source>Change your message. The old one stays as another version.</source>
        <translation>메시지를 고쳐요. 이전 메시지는 다른 버전으로 남아요.</translation>
    </message>
    <message>
        <source>Your message</source>
        <translation>내 메시지</translation>
    </message>
    <message>
        <source>Copy</source>
        <translation>복사</translation>
    </message>
    <message>
        <source>Edit</source>
        <translation>편집</translation>
    </message>
    <message>
        <source>Answer this</source>
        <translation>답변 받기</translation>
    </message>
</context>
<context>
    <name>VersionCard</name>
    <message>
        <source>in use</source>
        <translation>사용 중</translation>
    </message>
    <message>
        <source>Learned from “{0}”</source>
        <translation>‘{0}’에서 배움</translation>
    </message>
    <message>
        <source>The model Attune came with</source>
        <translation>Attune에 들어 있던 모델</translation>
    </message>
    <message>
        <source>Learned from a version that was removed</source>
        <translation>지워진 버전에서 배움</translation>
    </message>
    <message>
        <source>Use</source>
        <translation>사용</translation>
    </message>
    <message>
        <source>Use {0}</source>
        <translation>{0} 사용</translation>
    </message>
    <message>
        <source>Compare blind</source>
        <translation>블라인드 비교</translation>
    </message>
    <message>
        <source>Compare {0} blind</source>
        <translation>{0} 블라인드 비교</translation>
    </message>
    <message>
        <source>Remove {0}</source>
        <translation>{0} 삭제</translation>
    </message>
</context>
<context>
    <name>VersionsPanel</name>
    <message>
        <source>Remove “{0}”?</source>
        <translation>‘{0}’ 버전을 삭제할까요?</translation>
    </message>
    <message>
        <source>Its files are deleted from the disk. This cannot be undone.</source>
        <translation>디스크에서 파일이 지워져요. 되돌릴 수 없어요.</translation>
    </message>
    <message>
        <source>Remove</source>
        <translation>삭제</translation>
    </message>
    <message>
        <source>Keep</source>
        <translation>유지</translation>
    </message>
    <message>
        <source>Go back to the version before</source>
        <translation>이전 버전으로 되돌리기</translation>
    </message>
    <message>
        <source>You chat with the version in use. Changing it loses nothing.</source>
        <translation>사용 중인 버전과 대화해요. 바꿔도 잃는 것은 없어요.</translation>
    </message>
</context>
<context>
    <name>VirtualList</name>
    <message>
        <source>Jump to the latest message</source>
        <translation>최신 메시지로 이동</translation>
    </message>
    <message>
        <source>Messages</source>
        <translation>메시지 목록</translation>
    </message>
</context>
<context>
    <name>WritingIndicator</name>
    <message>
        <source>Summarising earlier messages…</source>
        <translation>앞선 메시지를 요약하는 중…</translation>
    </message>
    <message>
        <source>Reading your message… {0} %</source>
        <translation>메시지를 읽고 있어요… {0}%</translation>
    </message>
    <message>
        <source>Writing…</source>
        <translation>쓰고 있어요…</translation>
    </message>
</context>
</TS>
